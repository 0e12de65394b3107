//! Redaction: what is left of an event when its content is taken away.

use ruma::canonical_json::{redact_content_in_place, redact_in_place};
use serde_json::value::RawValue;

use crate::format::{object, to_string};
use crate::{FormatError, Pdu, RoomRules};

/// The redacted event. Its id is that of the original, since the id is the hash of the redacted
/// form.
pub fn redact(pdu: &Pdu, rules: &RoomRules) -> Result<Pdu, FormatError> {
    let mut event = object(pdu.json())?;
    redact_in_place(&mut event, &rules.ruma().redaction, None)
        .map_err(|e| FormatError::Json(e.to_string()))?;
    let redacted = Pdu::from_canonical(pdu.event_id().to_owned(), to_string(&event)?)?;
    Ok(if pdu.is_rejected() {
        redacted.mark_rejected()
    } else {
        redacted
    })
}

/// What clients see of the content of a redacted event.
pub fn redact_content_for_client(
    kind: &str,
    content: &RawValue,
    rules: &RoomRules,
) -> Result<Box<RawValue>, FormatError> {
    let mut content = object(content.get())?;
    redact_content_in_place(&mut content, &rules.ruma().redaction, kind);
    RawValue::from_string(to_string(&content)?).map_err(|e| FormatError::Json(e.to_string()))
}

#[cfg(test)]
mod tests;
