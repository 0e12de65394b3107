//! The `X-Matrix` authorization scheme: server-server API, "Request Authentication".

use resuni_dag::{SigningKey, sign_json};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};
use serde_json::value::RawValue;

/// The name of the scheme.
const SCHEME: &str = "X-Matrix";
/// No `Authorization` header of a server is longer than this.
const MAX_HEADER_BYTES: usize = 4096;

/// Why a header or the request it belongs to cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum XMatrixError {
    /// The header is of another scheme.
    #[error("this endpoint needs an Authorization header of the X-Matrix scheme")]
    OtherScheme,
    /// The header does not follow the grammar.
    #[error("the X-Matrix header is malformed: {0}")]
    Malformed(&'static str),
    /// The body is not JSON that can be signed.
    #[error("the body is not canonical JSON: {0}")]
    Body(String),
}

/// The parameters of an `X-Matrix` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    /// The server that says it sent the request.
    pub origin: OwnedServerName,
    /// The server the request is for; older servers leave it out.
    pub destination: Option<OwnedServerName>,
    /// The id of the key, with its algorithm.
    pub key: String,
    /// The signature in unpadded base64.
    pub sig: String,
}

impl XMatrix {
    /// Reads the value of an `Authorization` header.
    ///
    /// Values may be quoted or not, in any order, and an unquoted one may hold colons ("For
    /// compatibility with older servers, the recipient should allow colons"). Unknown parameters are
    /// ignored; one that is given twice is refused, since two readers could choose differently.
    ///
    /// # Errors
    /// [`XMatrixError`].
    pub fn parse(header: &str) -> Result<Self, XMatrixError> {
        if header.len() > MAX_HEADER_BYTES {
            return Err(XMatrixError::Malformed("it is too long"));
        }
        let (scheme, mut rest) = header
            .trim_start()
            .split_once(' ')
            .ok_or(XMatrixError::OtherScheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(XMatrixError::OtherScheme);
        }
        let (mut origin, mut destination, mut key, mut sig) = (None, None, None, None);
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let (name, after) = rest
                .split_once('=')
                .ok_or(XMatrixError::Malformed("a parameter has no value"))?;
            let (value, after) = take_value(after)?;
            rest = after;
            let slot = match name.trim_end().to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key,
                "sig" | "signature" => &mut sig,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(XMatrixError::Malformed("a parameter is given twice"));
            }
        }
        let server = |name: String| {
            OwnedServerName::try_from(name)
                .map_err(|_| XMatrixError::Malformed("not a valid server name"))
        };
        Ok(Self {
            origin: server(origin.ok_or(XMatrixError::Malformed("the origin is missing"))?)?,
            destination: destination.map(server).transpose()?,
            key: key.ok_or(XMatrixError::Malformed("the key is missing"))?,
            sig: sig.ok_or(XMatrixError::Malformed("the signature is missing"))?,
        })
    }

    /// The header for a request of ours.
    ///
    /// `uri` is the path with its query as it stands in the request line; `body` is empty for a request
    /// without one.
    ///
    /// # Errors
    /// When the body is not canonical JSON.
    pub fn sign(request: SignedParts<'_>, key: &SigningKey) -> Result<String, XMatrixError> {
        let mut object = request.object()?;
        sign_json(&mut object, request.origin, key)
            .map_err(|e| XMatrixError::Body(e.to_string()))?;
        let sig = signature_of(&object, request.origin, &key.key_id())
            .ok_or(XMatrixError::Malformed("the request could not be signed"))?;
        // Quoted and without blanks or backslashes: what every server understands.
        Ok(format!(
            "{SCHEME} origin=\"{}\",destination=\"{}\",key=\"{}\",sig=\"{sig}\"",
            request.origin,
            request.destination,
            key.key_id(),
        ))
    }
}

/// The parts of a request that its signature covers.
#[derive(Clone, Copy, Debug)]
pub struct SignedParts<'a> {
    /// GET, PUT …
    pub method: &'a str,
    /// Path and query, as in the request line.
    pub uri: &'a str,
    /// The sender, before any delegation.
    pub origin: &'a ServerName,
    /// The receiver, before any delegation.
    pub destination: &'a ServerName,
    /// The body; empty when there is none.
    pub body: &'a [u8],
}

impl SignedParts<'_> {
    /// The text whose signature a header carries.
    ///
    /// A body that canonical JSON can't express is taken as it came. Events of room versions before 6 may
    /// hold any number JSON can, and a server with such an event must not become unable to send us
    /// anything; what such a server signs is the body it sends.
    ///
    /// # Errors
    /// When the body is not JSON.
    pub fn text(&self) -> Result<String, XMatrixError> {
        match self.object() {
            Ok(object) => Ok(CanonicalJsonValue::Object(object).to_string()),
            Err(_) => self.text_around_body(),
        }
    }

    fn text_around_body(&self) -> Result<String, XMatrixError> {
        let body = |error: &dyn std::fmt::Display| XMatrixError::Body(error.to_string());
        let content: &RawValue = serde_json::from_slice(self.body).map_err(|e| body(&e))?;
        let rest = SignedParts { body: &[], ..*self }.object()?;
        let rest = CanonicalJsonValue::Object(rest).to_string();
        // "content" comes before all other keys.
        let rest = rest.strip_prefix('{').unwrap_or(&rest);
        Ok(format!("{{\"content\":{},{rest}", content.get()))
    }

    fn object(&self) -> Result<CanonicalJsonObject, XMatrixError> {
        let mut object = CanonicalJsonObject::from([
            ("method".to_owned(), self.method.to_owned().into()),
            ("uri".to_owned(), self.uri.to_owned().into()),
            ("origin".to_owned(), self.origin.to_string().into()),
            (
                "destination".to_owned(),
                self.destination.to_string().into(),
            ),
        ]);
        if !self.body.is_empty() {
            let content: CanonicalJsonValue =
                serde_json::from_slice(self.body).map_err(|e| XMatrixError::Body(e.to_string()))?;
            object.insert("content".to_owned(), content);
        }
        Ok(object)
    }
}

fn signature_of(object: &CanonicalJsonObject, server: &ServerName, key_id: &str) -> Option<String> {
    let by_server = object
        .get("signatures")?
        .as_object()?
        .get(server.as_str())?
        .as_object()?;
    by_server.get(key_id)?.as_str().map(str::to_owned)
}

/// A token (more freely than RFC 9110 has it: up to the next comma or blank) or a quoted string.
fn take_value(input: &str) -> Result<(String, &str), XMatrixError> {
    let input = input.trim_start_matches([' ', '\t']);
    let Some(quoted) = input.strip_prefix('"') else {
        let end = input.find([',', ' ', '\t']).unwrap_or(input.len());
        let (value, rest) = input.split_at(end);
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next() {
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err(XMatrixError::Malformed("a quoted value has no end"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn expected() -> XMatrix {
        XMatrix {
            origin: owned_server_name!("a.example:8448"),
            destination: Some(owned_server_name!("b.example")),
            key: "ed25519:k1".to_owned(),
            sig: "c2ln".to_owned(),
        }
    }

    fn parts(body: &[u8]) -> SignedParts<'_> {
        SignedParts {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1",
            origin: server_name!("a.example"),
            destination: server_name!("b.example"),
            body,
        }
    }

    #[test]
    fn a_body_with_numbers_of_old_is_signed_as_it_came() {
        let around = r#""destination":"b.example","method":"PUT","origin":"a.example","uri":"/_matrix/federation/v1/send/1"}"#;
        let spaced = parts(b"{ \"b\": 1, \"a\": [] }").text().unwrap();
        assert_eq!(spaced, format!(r#"{{"content":{{"a":[],"b":1}},{around}"#));
        for number in ["1.5", "1e+300", "9007199254740993"] {
            let body = format!(r#"{{"a":{number},"b":"x"}}"#);
            let text = parts(body.as_bytes()).text().unwrap();
            assert_eq!(text, format!(r#"{{"content":{body},{around}"#));
        }
        assert!(parts(b"{").text().is_err());
        assert_eq!(parts(b"").text().unwrap(), format!("{{{around}"));
    }

    #[test]
    fn every_spelling_is_read() {
        for header in [
            r#"X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k1",sig="c2ln""#,
            r"X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k1,sig=c2ln",
            r#"x-matrix   sig=c2ln ,	KEY="ed25519:k1", Destination=b.example , origin="a.example:8448","#,
            r#"X-Matrix origin="a\.example:8448",destination="b.exam\ple",key="ed25519:k1",sig="c2ln",new="\"x,y\"""#,
        ] {
            assert_eq!(XMatrix::parse(header).unwrap(), expected(), "{header}");
        }
        let old = r#"X-Matrix origin="a.example:8448",key="ed25519:k1",sig="c2ln""#;
        assert_eq!(XMatrix::parse(old).unwrap().destination, None);
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        for header in [
            "",
            "Bearer abc",
            "X-Matrix",
            "X-Matrix origin=a.example,key=ed25519:k1",
            "X-Matrix origin=a.example,key=ed25519:k1,sig",
            r#"X-Matrix origin="a.example,key=ed25519:k1,sig=c2ln"#,
            r#"X-Matrix origin="a.example\"#,
            "X-Matrix origin=a.example,origin=b.example,key=ed25519:k1,sig=c2ln",
            "X-Matrix origin=not/a/name,key=ed25519:k1,sig=c2ln",
        ] {
            assert!(XMatrix::parse(header).is_err(), "{header:?}");
        }
        assert!(XMatrix::parse(&format!("X-Matrix a={}", "x".repeat(MAX_HEADER_BYTES))).is_err());
    }

    #[test]
    fn the_content_is_signed_only_when_there_is_a_body() {
        let mut parts = SignedParts {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=b%20c",
            origin: server_name!("a.example"),
            destination: server_name!("b.example"),
            body: b"",
        };
        assert!(!parts.object().unwrap().contains_key("content"));
        parts.body = b"{}";
        let object = parts.object().unwrap();
        assert!(object.contains_key("content"));
        assert_eq!(object["uri"].as_str(), Some(parts.uri));
        parts.body = b"{\"a\":1.5}";
        assert!(matches!(parts.object(), Err(XMatrixError::Body(_))));
    }
}
