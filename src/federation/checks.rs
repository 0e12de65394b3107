//! The checks that come before a room sees an event: format, who may federate, signatures, hash
//! (server-server API, "Checks performed on receipt of a PDU", 1 to 3).

use std::{sync::Arc, thread::available_parallelism};

use resuni_dag::{
    Pdu, RoomRules, SignatureError, Verified, VerifyKeys, redact, required_signatures, verify,
};
use ruma::{OwnedEventId, OwnedServerName, RoomId};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::{
    admission::Admission,
    keys::{Keys, Needed},
};

/// Events that one blocking task checks: enough to outweigh handing them over.
const CHUNK: usize = 32;

/// Why an event was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its id, if it could be computed.
    pub event_id: Option<OwnedEventId>,
    /// A sentence for the operator and the other server.
    pub reason: String,
    /// The key that could not be had, if it is for this alone that it was dropped.
    pub needs: Option<Needed>,
}

/// The servers that must have signed an event, with the ids of the keys they signed it with.
type Signatures = Vec<(OwnedServerName, Vec<String>)>;

fn needed_for<'a>(
    pdu: &Pdu,
    signatures: &'a Signatures,
    rules: &RoomRules,
) -> impl Iterator<Item = Needed> + use<'a> {
    let at_ms = if rules.enforce_key_validity() {
        pdu.origin_server_ts()
    } else {
        0
    };
    signatures.iter().map(move |(server, key_ids)| Needed {
        server: server.clone(),
        key_ids: key_ids.clone(),
        at_ms,
    })
}

/// Checks events of other servers, many at once on a bounded number of blocking threads.
#[derive(Clone)]
pub struct Checker {
    keys: Arc<Keys>,
    admission: Arc<Admission>,
    threads: Arc<Semaphore>,
}

impl Checker {
    /// A checker with as many threads as there are cores.
    #[must_use]
    pub fn new(keys: Arc<Keys>, admission: Arc<Admission>) -> Self {
        let threads = available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            keys,
            admission,
            threads: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Checks events that must be of `room`. The answer is in the order of `raws`. An event whose
    /// content hash is wrong comes out redacted, as the specification asks.
    pub async fn check(
        &self,
        room: &RoomId,
        rules: &'static RoomRules,
        raws: Vec<Box<RawValue>>,
    ) -> Vec<Result<Pdu, Dropped>> {
        let room = room.to_owned();
        let admission = Arc::clone(&self.admission);
        let parsed = self
            .on_threads(raws, move |raw: Box<RawValue>| {
                let drop = |event_id, reason: String| Dropped {
                    event_id,
                    reason,
                    needs: None,
                };
                let pdu = Pdu::parse(raw.get(), rules).map_err(|e| drop(None, e.to_string()))?;
                let id = || Some(pdu.event_id().to_owned());
                if pdu.room_id() != room {
                    return Err(drop(id(), format!("it is an event of {}", pdu.room_id())));
                }
                if !admission.allows(pdu.sender().server_name()) {
                    let server = pdu.sender().server_name();
                    return Err(drop(id(), format!("{server} is not federated with")));
                }
                let signatures =
                    required_signatures(&pdu, rules).map_err(|e| drop(id(), e.to_string()))?;
                Ok((pdu, signatures))
            })
            .await;
        let needed = parsed.iter().flatten();
        let needed = needed.flat_map(|(pdu, signatures)| needed_for(pdu, signatures, rules));
        let keys: Arc<VerifyKeys> = Arc::new(self.keys.find(needed.collect()).await);
        self.on_threads(parsed, move |parsed: Result<(Pdu, Signatures), Dropped>| {
            let (pdu, signatures) = parsed?;
            let dropped = |reason: String, needs| Dropped {
                event_id: Some(pdu.event_id().to_owned()),
                reason,
                needs,
            };
            match verify(&pdu, rules, &keys) {
                Ok(Verified::All) => Ok(pdu),
                Ok(Verified::HashMismatch) => {
                    redact(&pdu, rules).map_err(|e| dropped(e.to_string(), None))
                }
                Err(SignatureError::NoUsableKey(server)) => {
                    let mut needs = needed_for(&pdu, &signatures, rules);
                    let needs = needs.find(|need| need.server == server);
                    Err(dropped(
                        SignatureError::NoUsableKey(server).to_string(),
                        needs,
                    ))
                }
                Err(error) => Err(dropped(error.to_string(), None)),
            }
        })
        .await
    }

    /// Applies `work` to every item, in chunks on blocking threads, and keeps the order.
    async fn on_threads<T, U>(
        &self,
        items: Vec<T>,
        work: impl Fn(T) -> U + Clone + Send + 'static,
    ) -> Vec<U>
    where
        T: Send + 'static,
        U: Send + 'static,
    {
        let mut items = items.into_iter().peekable();
        let mut tasks = Vec::new();
        while items.peek().is_some() {
            let chunk: Vec<T> = items.by_ref().take(CHUNK).collect();
            let work = work.clone();
            let permit = Arc::clone(&self.threads).acquire_owned().await;
            tasks.push(tokio::spawn(resuni_store::blocking(move || {
                let _permit = permit;
                chunk.into_iter().map(work).collect::<Vec<U>>()
            })));
        }
        let mut done = Vec::new();
        for task in tasks {
            match task.await {
                Ok(Ok(chunk)) => done.extend(chunk),
                // A panic in the work is a bug of ours; it must not be taken for a result.
                Ok(Err(panicked)) => std::panic::resume_unwind(panicked.0),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        done
    }
}
