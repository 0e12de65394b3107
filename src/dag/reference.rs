//! How an event names another one.

use std::collections::BTreeMap;
use std::fmt;

use ruma::{CanonicalJsonValue, EventId, OwnedEventId};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::format::{object, reference_hash};
use crate::{FormatError, Pdu, RoomRules};

/// An entry of `prev_events` or `auth_events`: an event's id and, in versions 1 and 2, its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The event.
    pub id: OwnedEventId,
    /// Its reference hash in unpadded base64; asked for in versions 1 and 2 only.
    pub sha256: Option<String>,
}

impl Reference {
    /// Names an event, with its hash if the version wants it.
    pub fn to(pdu: &Pdu, rules: &RoomRules) -> Result<Self, FormatError> {
        let sha256 = match rules.references_have_hashes() {
            true => Some(reference_hash(&object(pdu.json())?, rules)?),
            false => None,
        };
        Ok(Self {
            id: pdu.event_id().to_owned(),
            sha256,
        })
    }

    /// The ids alone.
    pub fn ids(references: Vec<Self>) -> Vec<OwnedEventId> {
        references.into_iter().map(|to| to.id).collect()
    }

    /// As it stands in an event of this version. Where the hash isn't known, it is left out: who prepares
    /// a join for another server may do that, as Synapse does, and who joins can't know better.
    pub(crate) fn to_json(&self, rules: &RoomRules) -> CanonicalJsonValue {
        let id = CanonicalJsonValue::String(self.id.to_string());
        if !rules.references_have_hashes() {
            return id;
        }
        let hash = self.sha256.clone().map(CanonicalJsonValue::String);
        let hashes: BTreeMap<_, _> = hash
            .map(|hash| ("sha256".to_owned(), hash))
            .into_iter()
            .collect();
        CanonicalJsonValue::Array(vec![id, CanonicalJsonValue::Object(hashes)])
    }
}

impl From<OwnedEventId> for Reference {
    fn from(id: OwnedEventId) -> Self {
        Self { id, sha256: None }
    }
}

/// Reads both forms: which one a version has is checked where events come in.
impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

struct Either;

#[derive(Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

impl<'de> Visitor<'de> for Either {
    type Value = Reference;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event id, or a pair of one and its hashes")
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<Reference, E> {
        EventId::parse(id).map(Reference::from).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
        let short = || A::Error::invalid_length(0, &"a pair of an event id and its hashes");
        let id: OwnedEventId = pair.next_element()?.ok_or_else(short)?;
        let hashes: Hashes = pair.next_element()?.ok_or_else(short)?;
        Ok(Reference {
            id,
            sha256: hashes.sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Room, rules};

    #[test]
    fn both_forms_are_read_and_written() {
        let (old, new) = (rules("2"), rules("3"));
        let pair = r#"["$a:one",{"sha256":"hash"}]"#;
        let read: Reference = serde_json::from_str(pair).unwrap();
        assert_eq!(read.sha256.as_deref(), Some("hash"));
        let written = |to: &Reference, rules| serde_json::to_string(&to.to_json(rules));
        assert_eq!(written(&read, old).unwrap(), pair);
        let read: Reference = serde_json::from_str("\"$a\"").unwrap();
        assert_eq!(written(&read, new).unwrap(), "\"$a\"");
        let unhashed = r#"["$a",{}]"#;
        assert_eq!(written(&read, old).unwrap(), unhashed);
        assert_eq!(serde_json::from_str::<Reference>(unhashed).unwrap(), read);
        for bad in ["[]", r#"["$a:one"]"#, r#"["$a:one", {}, {}]"#, "7", "\"a\""] {
            assert!(serde_json::from_str::<Reference>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn in_version_3_the_hash_is_the_id() {
        let (room, branch) = Room::with("3", &["alice creates"]);
        let create = room.create_of(&branch).unwrap();
        let hash = reference_hash(&object(create.json()).unwrap(), room.rules).unwrap();
        assert_eq!(create.event_id().as_str(), format!("${hash}"));
        assert_eq!(Reference::to(&create, room.rules).unwrap().sha256, None);
    }
}
