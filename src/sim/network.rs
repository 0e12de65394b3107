//! The network between the machines: what gets lost, late, twice and in another order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use resuni_federation::net::{Answer, HttpError, Transport};
use ruma::OwnedServerName;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::chance::Chance;

/// How bad the network is: times of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A request that never arrives.
    pub lost: u64,
    /// A request that is carried out, and whose answer never arrives.
    pub unanswered: u64,
    /// A request that arrives twice.
    pub repeated: u64,
    /// A request, or an answer, that takes seconds.
    pub slow: u64,
}

/// The network.
pub struct Net {
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    weather: Weather,
    /// Who is on, and in which life.
    servers: BTreeMap<String, Host>,
    /// Between whom nothing passes, in this direction.
    cut: BTreeSet<(String, String)>,
}

#[derive(Clone)]
struct Host {
    router: Router,
    /// Cancelled when the machine goes off.
    life: CancellationToken,
}

/// What becomes of one exchange.
#[derive(Clone, Copy, Debug)]
struct Fate {
    way: Duration,
    back: Duration,
    lost: bool,
    refused: bool,
    unanswered: bool,
    again_after: Option<Duration>,
}

impl Net {
    /// A network without anybody.
    #[must_use]
    pub fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                chance,
                weather: Weather::default(),
                servers: BTreeMap::new(),
                cut: BTreeSet::new(),
            }),
        })
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn cut(&self, from: &str, to: &str) {
        let pair = (from.to_owned(), to.to_owned());
        self.state.lock().cut.insert(pair);
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.state.lock().cut.clear();
    }

    /// A machine is on.
    pub fn plug(&self, name: &OwnedServerName, router: Router, life: CancellationToken) {
        let host = Host { router, life };
        self.state.lock().servers.insert(name.to_string(), host);
    }

    /// A machine is off: who connects is refused.
    pub fn unplug(&self, name: &OwnedServerName) {
        self.state.lock().servers.remove(name.as_str());
    }

    /// What a machine reaches others by.
    pub fn link(
        self: &Arc<Self>,
        from: &OwnedServerName,
        life: CancellationToken,
    ) -> Arc<dyn Transport> {
        Arc::new(Link {
            net: Arc::clone(self),
            from: from.to_string(),
            life,
        })
    }

    fn fate(&self, from: &str, to: &str) -> Fate {
        let mut state = self.state.lock();
        let is_cut = state.cut.contains(&(from.to_owned(), to.to_owned()));
        let answers_cut = state.cut.contains(&(to.to_owned(), from.to_owned()));
        let State {
            chance, weather, ..
        } = &mut *state;
        let mut delay = || match chance.permille(weather.slow) {
            true => chance.millis(500..20_000),
            false => chance.millis(2..60),
        };
        let (way, back) = (delay(), delay());
        Fate {
            way,
            back,
            lost: is_cut || chance.permille(weather.lost),
            // Of a cut line one hears at once, or never.
            refused: is_cut && chance.permille(500),
            unanswered: answers_cut || chance.permille(weather.unanswered),
            again_after: chance
                .permille(weather.repeated)
                .then(|| chance.millis(10..30_000)),
        }
    }

    fn host(&self, name: &str) -> Option<Host> {
        self.state.lock().servers.get(name).cloned()
    }
}

struct Link {
    net: Arc<Net>,
    from: String,
    life: CancellationToken,
}

impl Link {
    async fn carry(
        &self,
        to: &str,
        request: Request<Bytes>,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        let fate = self.net.fate(&self.from, to);
        sleep(fate.way).await;
        let unreachable = || HttpError::Exchange(format!("{to} cannot be reached"));
        if fate.refused || self.life.is_cancelled() {
            return Err(unreachable());
        }
        if fate.lost {
            std::future::pending::<()>().await;
        }
        let host = self.net.host(to).ok_or_else(unreachable)?;
        if let Some(after) = fate.again_after {
            let (net, to, request) = (Arc::clone(&self.net), to.to_owned(), request.clone());
            tokio::spawn(async move {
                sleep(after).await;
                if let Some(host) = net.host(&to) {
                    let _ = host.answer(request).await;
                }
            });
        }
        // In a task of its own: the other machine does not stop because we no longer wait.
        let answer = tokio::spawn(async move { host.answer(request).await });
        let answer = answer.await.ok().flatten().ok_or_else(unreachable)?;
        sleep(fate.back).await;
        if fate.unanswered {
            std::future::pending::<()>().await;
        }
        match answer.body.len() <= max_body {
            true => Ok(answer),
            false => Err(HttpError::TooLarge(max_body)),
        }
    }
}

impl Transport for Link {
    fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
        max_body: usize,
    ) -> BoxFuture<'_, Result<Answer, HttpError>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let to = parts.uri.authority().map(ToString::to_string);
            let to = to.unwrap_or_default();
            let body = body.collect().await;
            let body = body.unwrap_or_else(|never| match never {}).to_bytes();
            // A server sees the path only.
            let mut request = Request::from_parts(parts, body);
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map(http::Uri::from).unwrap_or_default();
            timeout(patience, self.carry(&to, request, max_body))
                .await
                .unwrap_or(Err(HttpError::Timeout(patience)))
        })
    }
}

impl Host {
    /// The answer; none when the machine went off meanwhile.
    async fn answer(self, request: Request<Bytes>) -> Option<Answer> {
        let answer = call(self.router, request);
        tokio::select! {
            biased;
            () = self.life.cancelled() => None,
            answer = answer => answer,
        }
    }
}

/// Gives a request to a router.
pub async fn call(router: Router, request: Request<Bytes>) -> Option<Answer> {
    let response = router.oneshot(request.map(Body::from)).await;
    let (parts, body) = response.unwrap_or_else(|never| match never {}).into_parts();
    Some(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.ok()?.to_bytes(),
    })
}
