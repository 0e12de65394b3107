//! The state after several events: collecting a [`Conflict`] from the differences of their states, and running it.
//!
//! Work is in proportion to the differences: states are compared as trees, and the auth graph is walked no further than
//! where the states' chains meet.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use resuni_dag::{
    Conflict, Pdu, RoomRules, StateKey, auth_difference, base_keys, conflicted_subgraph,
    create_event_id,
};
use resuni_store::StoreError;
use ruma::OwnedEventId;
use tokio::runtime::Handle;

use crate::{
    cache::AuthEdges,
    error::RoomError,
    lane::Live,
    reader::Reader,
    tree::Put,
    types::{EventNum, SnapNum, StateKeyNum},
    work::Work,
};

/// The state after these events, each of which has a known state.
pub(crate) async fn state_after(
    work: &mut Work<'_>,
    live: &Live,
    events: Vec<EventNum>,
) -> Result<SnapNum, RoomError> {
    let mut snaps = Vec::with_capacity(events.len());
    for event in events {
        snaps.push(work.reader.event_row(event).await?.snap_after);
    }
    resolve_states(work, live, snaps).await
}

/// The state that these states resolve to.
pub(crate) async fn resolve_states(
    work: &mut Work<'_>,
    live: &Live,
    snaps: Vec<SnapNum>,
) -> Result<SnapNum, RoomError> {
    let snaps = distinct(&work.reader, snaps).await?;
    match snaps[..] {
        [] => return Ok(SnapNum::EMPTY),
        [only] => return Ok(only),
        _ => {}
    }
    if let Some(known) = work.known_resolution(&snaps) {
        return Ok(known);
    }
    let forks = Forks::read(&work.reader, snaps.clone()).await?;
    let room_id = live.room_id.clone();
    let (reader, rules) = (work.reader.clone(), work.rules);
    let (puts, same) = run_blocking(work, move |handle| {
        let walked = forks.walk(&reader, rules, &handle)?;
        handle.block_on(async {
            let conflict = forks
                .conflict(&reader, rules, walked, create_event_id(&room_id))
                .await?;
            let resolved = resuni_dag::resolve(&conflict, rules).map_err(|error| {
                RoomError::Inconsistent(format!("in the room {room_id}, {error}"))
            })?;
            let puts = forks.puts(&reader, resolved).await?;
            let same = forks.same_as(&puts);
            Ok((puts, same))
        })
    })
    .await?;
    let mut partial = false;
    for snap in &snaps {
        partial |= work.is_partial(*snap).await?;
    }
    let snap = match same {
        Some(snap) => work.make_state(snap, Vec::new(), partial).await?,
        None => work.make_state(snaps[0], puts, partial).await?,
    };
    work.resolved.push((snaps, snap));
    Ok(snap)
}

/// One of each state: equal digests are equal states. In order, so that the same question is asked the same way.
async fn distinct(reader: &Reader, mut snaps: Vec<SnapNum>) -> Result<Vec<SnapNum>, StoreError> {
    snaps.sort_unstable();
    snaps.dedup();
    let mut seen = HashSet::new();
    let mut distinct = Vec::with_capacity(snaps.len());
    for snap in snaps {
        let row = reader.snap(snap).await?;
        // A partial state is another than a whole one with the same entries: what follows from it is partial.
        if seen.insert((row.digest, row.count, row.partial)) {
            distinct.push(snap);
        }
    }
    Ok(distinct)
}

/// State resolution is CPU-heavy: it has a bounded number of threads, away from those that serve requests.
async fn run_blocking<T: Send + 'static>(
    work: &Work<'_>,
    run: impl FnOnce(Handle) -> Result<T, RoomError> + Send + 'static,
) -> Result<T, RoomError> {
    let permit = work.rooms.resolving.clone().acquire_owned().await;
    let handle = Handle::current();
    let done = resuni_store::blocking(move || {
        let _permit = permit;
        run(handle)
    });
    done.await.unwrap_or_else(|error| {
        Err(RoomError::Inconsistent(format!(
            "state resolution stopped: {error}"
        )))
    })
}

/// States that disagree, and where.
struct Forks {
    snaps: Vec<SnapNum>,
    /// For each key on which not all agree, its event in each state.
    keys: BTreeMap<StateKeyNum, Vec<Option<EventNum>>>,
}

impl Forks {
    async fn read(reader: &Reader, snaps: Vec<SnapNum>) -> Result<Self, StoreError> {
        let mut keys: BTreeMap<StateKeyNum, Vec<Option<EventNum>>> = BTreeMap::new();
        for (i, snap) in snaps.iter().enumerate().skip(1) {
            for change in reader.state_diff(snaps[0], *snap).await? {
                // Where a state has no difference from the first, it holds the same event.
                let events = keys
                    .entry(change.key)
                    .or_insert_with(|| vec![change.before; snaps.len()]);
                events[i] = change.after;
            }
        }
        Ok(Self { snaps, keys })
    }

    fn conflicted(&self) -> BTreeSet<EventNum> {
        self.keys.values().flatten().flatten().copied().collect()
    }

    /// The auth difference and, in v2.1, the conflicted state subgraph.
    fn walk(
        &self,
        reader: &Reader,
        rules: &RoomRules,
        handle: &Handle,
    ) -> Result<Walked, StoreError> {
        if rules.state_res().is_none() {
            // Version 1 of state resolution looks at no auth chains.
            return Ok(Walked::default());
        }
        let graph = Graph {
            reader,
            handle,
            error: RefCell::new(None),
        };
        let sets: Vec<Vec<EventNum>> = (0..self.snaps.len())
            .map(|i| self.keys.values().filter_map(|events| events[i]).collect())
            .collect();
        let shared =
            std::iter::once_with(|| graph.entries_without(self.snaps[0], &self.keys)).flatten();
        let difference =
            auth_difference(&sets, shared, |n| graph.generation(n), |n| graph.parents(n));
        let conflicted: Vec<EventNum> = self.conflicted().into_iter().collect();
        let subgraph = match rules.resolves_from_empty() {
            true => conflicted_subgraph(&conflicted, |n| graph.generation(n), |n| graph.parents(n)),
            false => HashSet::new(),
        };
        graph.error.into_inner().map_or(
            Ok(Walked {
                difference,
                subgraph,
            }),
            Err,
        )
    }

    async fn conflict(
        &self,
        reader: &Reader,
        rules: &RoomRules,
        Walked {
            difference,
            subgraph,
        }: Walked,
        create: Option<OwnedEventId>,
    ) -> Result<Conflict, RoomError> {
        let conflicted = self.conflicted();
        let full: BTreeSet<EventNum> = conflicted
            .into_iter()
            .chain(difference.iter().chain(&subgraph).copied())
            .collect();
        let mut events = Events {
            reader,
            found: HashMap::new(),
            ids: HashMap::new(),
        };
        for num in &full {
            events.add_with_auth(*num).await?;
        }
        if let Some(create) = create
            && let Some(num) = reader.event_num(&create).await?
        {
            events.add(num).await?;
        }
        let base = self.base(&mut events, &full, rules).await?;
        let mut forks = vec![BTreeMap::new(); self.snaps.len()];
        for (key, values) in &self.keys {
            let name = reader.state_key(*key).await?;
            for (fork, event) in forks.iter_mut().zip(values) {
                if let Some(event) = event {
                    fork.insert(name.clone(), events.id(*event)?);
                }
            }
        }
        let ids = |set: HashSet<EventNum>| {
            set.into_iter()
                .map(|num| events.id(num))
                .collect::<Result<_, _>>()
        };
        let (auth_difference, subgraph) = (ids(difference)?, ids(subgraph)?);
        Ok(Conflict {
            forks,
            base,
            auth_difference,
            subgraph,
            events: events.found,
        })
    }

    /// The unconflicted entries that authorisation may ask for.
    async fn base(
        &self,
        events: &mut Events<'_>,
        full: &BTreeSet<EventNum>,
        rules: &RoomRules,
    ) -> Result<BTreeMap<StateKey, OwnedEventId>, RoomError> {
        let replayed: Vec<Pdu> = full
            .iter()
            .filter_map(|num| events.pdu(*num).cloned())
            .collect();
        let mut base = BTreeMap::new();
        for (kind, key) in base_keys(&replayed, rules) {
            let Some(num) = events.reader.state_key_num(&kind, &key).await? else {
                continue;
            };
            if self.keys.contains_key(&num) {
                continue;
            }
            if let Some(event) = events
                .reader
                .state_event(self.snaps[0], &kind, &key)
                .await?
            {
                events.add_with_auth(event).await?;
                base.insert((kind, key), events.id(event)?);
            }
        }
        Ok(base)
    }

    /// What turns the first state into the resolved one. In rare cases a key comes back that none of the states has: see
    /// `resuni_dag::resolve`.
    async fn puts(
        &self,
        reader: &Reader,
        resolved: BTreeMap<StateKey, OwnedEventId>,
    ) -> Result<Vec<Put>, RoomError> {
        let mut puts: BTreeMap<StateKeyNum, Option<EventNum>> =
            self.keys.keys().map(|key| (*key, None)).collect();
        for ((kind, key), id) in resolved {
            let (key, event) = (
                reader.state_key_num(&kind, &key).await?,
                reader.event_num(&id).await?,
            );
            let unknown = || {
                RoomError::Inconsistent(format!("state resolution chose {id}, which is not kept"))
            };
            puts.insert(key.ok_or_else(unknown)?, Some(event.ok_or_else(unknown)?));
        }
        Ok(puts.into_iter().collect())
    }

    /// The state among these that the resolved one is equal to.
    fn same_as(&self, puts: &[Put]) -> Option<SnapNum> {
        let equal = |i: usize| {
            puts.iter()
                .all(|(key, event)| self.keys.get(key).is_some_and(|events| events[i] == *event))
        };
        (0..self.snaps.len())
            .find(|i| equal(*i))
            .map(|i| self.snaps[i])
    }
}

/// Sets of events that the auth graph gives.
#[derive(Default)]
struct Walked {
    difference: HashSet<EventNum>,
    subgraph: HashSet<EventNum>,
}

/// The events that state resolution may ask for.
struct Events<'a> {
    reader: &'a Reader,
    found: HashMap<OwnedEventId, Pdu>,
    ids: HashMap<EventNum, OwnedEventId>,
}

impl Events<'_> {
    async fn add(&mut self, num: EventNum) -> Result<(), StoreError> {
        if !self.ids.contains_key(&num) {
            let pdu = self.reader.judged(num).await?;
            self.ids.insert(num, pdu.event_id().to_owned());
            self.found.insert(pdu.event_id().to_owned(), pdu);
        }
        Ok(())
    }

    /// The event, its auth events, and of those that are power levels the ones before them down to the first: mainline
    /// ordering walks these.
    async fn add_with_auth(&mut self, num: EventNum) -> Result<(), StoreError> {
        let mut todo = vec![num];
        while let Some(num) = todo.pop() {
            self.add(num).await?;
            for auth in &self.reader.edges(num).await?.auth {
                let known = self.ids.contains_key(auth);
                self.add(*auth).await?;
                let is_levels = self
                    .pdu(*auth)
                    .is_some_and(|pdu| pdu.is("m.room.power_levels", ""));
                if is_levels && !known {
                    todo.push(*auth);
                }
            }
        }
        Ok(())
    }

    fn pdu(&self, num: EventNum) -> Option<&Pdu> {
        self.found.get(self.ids.get(&num)?)
    }

    fn id(&self, num: EventNum) -> Result<OwnedEventId, RoomError> {
        let id = self.ids.get(&num).cloned();
        id.ok_or_else(|| RoomError::Inconsistent(format!("the event {} was not collected", num.0)))
    }
}

/// The auth graph for walks that can't wait and can't fail: they run on a thread that may block, and an error is kept
/// until the walk is over.
struct Graph<'a> {
    reader: &'a Reader,
    handle: &'a Handle,
    error: RefCell<Option<StoreError>>,
}

impl Graph<'_> {
    fn now<T: Default>(&self, future: impl Future<Output = Result<T, StoreError>>) -> T {
        self.handle.block_on(future).unwrap_or_else(|error| {
            self.error.borrow_mut().get_or_insert(error);
            T::default()
        })
    }

    fn edges(&self, num: EventNum) -> Option<Arc<AuthEdges>> {
        self.now(async { self.reader.edges(num).await.map(Some) })
    }

    fn generation(&self, num: EventNum) -> u32 {
        self.edges(num).map_or(0, |edges| edges.generation)
    }

    fn parents(&self, num: EventNum) -> Vec<EventNum> {
        self.edges(num)
            .map(|edges| edges.auth.clone())
            .unwrap_or_default()
    }

    /// The events of a state at all keys but these.
    fn entries_without<V>(&self, snap: SnapNum, keys: &BTreeMap<StateKeyNum, V>) -> Vec<EventNum> {
        let entries = self.now(self.reader.state_entries(snap));
        entries
            .into_iter()
            .filter(|(key, _)| !keys.contains_key(key))
            .map(|(_, event)| event)
            .collect()
    }
}
