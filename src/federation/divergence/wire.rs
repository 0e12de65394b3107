//! MSC4500 on the wire, under its unstable names.

use std::collections::BTreeMap;

use resuni_rooms::{StateHash, StateHashes};
use ruma::{OwnedEventId, UInt};
use serde::{Deserialize, Serialize};

/// `PUT /_matrix/federation/v1/send/{txnId}` with the digests of the states around its events.
pub mod transaction {
    use std::collections::BTreeMap;

    use ruma::{
        MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, OwnedTransactionId,
        api::{
            federation::{authentication::ServerSignatures, transactions::edu::Edu},
            metadata, request, response,
        },
        serde::Raw,
    };
    use serde_json::value::RawValue;

    use super::{Outcome, Told};

    metadata! {
        method: PUT,
        rate_limited: false,
        authentication: ServerSignatures,
        path: "/_matrix/federation/v1/send/{transaction_id}",
    }

    /// A transaction.
    #[request]
    pub struct Request {
        /// Its id: the same one again is the same transaction.
        #[ruma_api(path)]
        pub transaction_id: OwnedTransactionId,
        /// Who sends it.
        pub origin: OwnedServerName,
        /// When.
        pub origin_server_ts: MilliSecondsSinceUnixEpoch,
        /// Events, at most 50.
        pub pdus: Vec<Box<RawValue>>,
        /// Ephemeral messages, at most 100.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub edus: Vec<Raw<Edu>>,
        /// By event. What is malformed is as good as absent: it must not cost the events.
        #[serde(
            rename = "tk.nutra.msc4500.state_hashes",
            default,
            deserialize_with = "super::if_well_formed",
            skip_serializing_if = "BTreeMap::is_empty"
        )]
        pub state_hashes: BTreeMap<OwnedEventId, Raw<Told>>,
    }

    /// What became of the events.
    #[response]
    pub struct Response {
        /// By event. Servers that say nothing of them, as some do, have taken them all the same.
        #[serde(default, deserialize_with = "super::if_well_formed")]
        pub pdus: BTreeMap<OwnedEventId, Outcome>,
    }

    impl Request {
        /// An empty transaction.
        #[must_use]
        pub fn new(
            transaction_id: OwnedTransactionId,
            origin: OwnedServerName,
            origin_server_ts: MilliSecondsSinceUnixEpoch,
        ) -> Self {
            Self {
                transaction_id,
                origin,
                origin_server_ts,
                pdus: Vec::new(),
                edus: Vec::new(),
                state_hashes: BTreeMap::new(),
            }
        }
    }

    impl Response {
        /// The answer with these outcomes.
        #[must_use]
        pub fn new(pdus: BTreeMap<OwnedEventId, Outcome>) -> Self {
            Self { pdus }
        }
    }
}

/// `GET …/state_accumulator/{roomId}?event_id=…`: the lattice of the state after an event.
pub mod accumulator {
    use ruma::{
        OwnedEventId, OwnedRoomId, UInt,
        api::{federation::authentication::ServerSignatures, metadata, request, response},
        serde::Base64,
    };

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: ServerSignatures,
        path: "/_matrix/federation/unstable/tk.nutra.msc4500/state_accumulator/{room_id}",
    }

    /// Which event.
    #[request]
    pub struct Request {
        /// The room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// The event.
        #[ruma_api(query)]
        pub event_id: OwnedEventId,
    }

    /// The lattice after it.
    #[response]
    pub struct Response {
        /// The event.
        pub event_id: OwnedEventId,
        /// `lthash16`.
        pub algorithm: String,
        /// 2048 bytes.
        pub lattice: Base64<ruma::serde::base64::UrlSafe>,
        /// The number of entries of the state.
        pub n_state_events: UInt,
        /// BLAKE2b-256 of the lattice, in hexadecimal digits.
        pub digest: String,
    }

    impl Request {
        /// Asks for the state after an event.
        #[must_use]
        pub fn new(room_id: OwnedRoomId, event_id: OwnedEventId) -> Self {
            Self { room_id, event_id }
        }
    }

    impl Response {
        /// The only algorithm there is.
        pub const ALGORITHM: &str = "lthash16";
    }
}

/// What a server says about the states around an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Digest of the state before it, in hexadecimal digits.
    pub before: String,
    /// Digest of the state after it.
    pub after: String,
    /// The size of the state before it.
    pub n_before: UInt,
    /// The size of the state after it.
    pub n_after: UInt,
}

impl Told {
    /// What this server says.
    #[must_use]
    pub fn of(hashes: &StateHashes) -> Self {
        let StateHashes { before, after } = hashes;
        Self {
            before: hex(&before.digest),
            after: hex(&after.digest),
            n_before: UInt::new_saturating(before.count),
            n_after: UInt::new_saturating(after.count),
        }
    }
}

/// What became of an event: taken in, unless there is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was taken in, and the states after it differ.
    #[serde(
        rename = "tk.nutra.msc4500.state_hash_mismatch",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub mismatch: Option<Mismatch>,
}

impl Outcome {
    /// The outcome of taking an event in.
    #[must_use]
    pub fn of(result: Result<(), String>) -> Self {
        Self {
            error: result.err(),
            mismatch: None,
        }
    }
}

/// Two digests that should be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Ours.
    pub expected_after: String,
    /// Theirs.
    pub received_after: String,
}

/// A digest in hexadecimal digits.
#[must_use]
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The state after an event as an answer tells it, once its lattice and its digest agree.
#[must_use]
pub fn accumulated(answer: &accumulator::Response) -> Option<StateHash> {
    let lattice = resuni_dag::Lattice::from_bytes(answer.lattice.as_bytes())?;
    let digest = lattice.digest().0;
    (answer.algorithm == accumulator::Response::ALGORITHM && answer.digest == hex(&digest)).then(
        || StateHash {
            digest,
            count: answer.n_state_events.into(),
        },
    )
}

/// What is there, or nothing if it is not what it should be.
fn if_well_formed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned + Default,
{
    let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

/// The hashes of a transaction, by event.
pub type Hashes = BTreeMap<OwnedEventId, ruma::serde::Raw<Told>>;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::api::{IncomingRequestExt as _, IncomingResponseExt as _};
    use serde_json::{Value, json};

    use super::transaction::{Request, Response};

    /// A transaction that was answered has arrived, whatever the answer leaves out: otherwise it would be sent for ever.
    #[test]
    fn an_answer_without_outcomes_is_one() {
        for body in ["{}", r#"{"pdus":null}"#, r#"{"pdus":{"$a":7}}"#] {
            let response = http::Response::new(body.as_bytes());
            let answer = Response::try_from_http_response(response).unwrap();
            assert!(answer.pdus.is_empty(), "{body}");
        }
        let refused = r#"{"pdus":{"$a":{"error":"no"}}}"#;
        let response = http::Response::new(refused.as_bytes());
        let answer = Response::try_from_http_response(response).unwrap();
        assert_eq!(answer.pdus.len(), 1);
    }

    fn read(hashes: Value) -> Request {
        let body = json!({ "origin": "a.test", "origin_server_ts": 1, "pdus": [{}],
            "tk.nutra.msc4500.state_hashes": hashes });
        let request = http::Request::put("https://b.test/_matrix/federation/v1/send/t1");
        let body = body.to_string();
        let request = request.body(body.as_bytes()).unwrap();
        Request::try_from_http_request(request, &["t1"]).unwrap()
    }

    #[test]
    fn hashes_of_any_shape_cost_no_events() {
        for odd in [
            json!(null),
            json!(7),
            json!([]),
            json!({ "no id": {} }),
            json!({ "$x": 1 }),
        ] {
            let request = read(odd);
            assert_eq!(request.pdus.len(), 1);
            let told = request.state_hashes.values();
            assert!(told.into_iter().all(|told| told.deserialize().is_err()));
        }
        let good = json!({ "$x": { "before": "", "after": "", "n_before": 1, "n_after": 2 } });
        assert_eq!(read(good).state_hashes.len(), 1);
    }
}
