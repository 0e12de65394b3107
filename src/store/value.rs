//! Values: rows that begin with the version of their shape.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Corrupt, Position};

/// Something that can be the value of a row. The first byte names the version of its shape, so that
/// an old row can still be read after the shape has changed; see [`versioned!`](crate::versioned).
pub trait Value: Sized {
    /// The row.
    fn encode(&self) -> Vec<u8>;

    /// Reads a row.
    ///
    /// # Errors
    /// [`Corrupt`] when the bytes are no such row.
    fn decode(bytes: &[u8]) -> Result<Self, Corrupt>;
}

/// Splits the version byte off a row.
///
/// # Errors
/// [`Corrupt`] when the row is empty.
pub fn split_version(bytes: &[u8]) -> Result<(u8, &[u8]), Corrupt> {
    bytes
        .split_first()
        .map(|(version, body)| (*version, body))
        .ok_or_else(|| Corrupt::new("the row is empty"))
}

/// A version byte and the postcard encoding of `value`: the work behind [`versioned!`](crate::versioned).
///
/// # Panics
/// Never for types that derive [`Serialize`] on plain data; postcard fails only on maps and
/// sequences of unknown length and on hand-written serializers that fail by themselves.
pub fn to_postcard(version: u8, value: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "a type that postcard can't hold is a mistake in the code that declares it"
    )]
    postcard::to_extend(value, vec![version]).expect("the declared type can be written by postcard")
}

/// Reads the postcard encoding of a `T`, and insists that nothing follows it.
///
/// # Errors
/// [`Corrupt`] when the bytes are no such encoding.
pub fn from_postcard<T: DeserializeOwned>(body: &[u8]) -> Result<T, Corrupt> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(Corrupt::new(format!("{} bytes follow the row", rest.len()))),
        Err(error) => Err(Corrupt::new(format!(
            "the row is not a {}: {error}",
            std::any::type_name::<T>()
        ))),
    }
}

/// The answer to a version byte that nobody knows.
pub fn unknown_version(version: u8) -> Corrupt {
    Corrupt::new(format!("the row has the unknown version {version}"))
}

/// Implements [`Value`](crate::Value) for a serde type: a version byte, then postcard.
///
/// `versioned!(Profile, 1);` for a first shape. When it changes, keep the old one beside the new:
/// `versioned!(Profile, 2, from 1 => v1::Profile);` with `impl From<v1::Profile> for Profile`.
#[macro_export]
macro_rules! versioned {
    ($type:ty, $version:literal $(, from $old:literal => $shape:ty)* $(,)?) => {
        impl $crate::Value for $type {
            fn encode(&self) -> ::std::vec::Vec<u8> {
                $crate::value::to_postcard($version, self)
            }

            fn decode(bytes: &[u8]) -> ::std::result::Result<Self, $crate::Corrupt> {
                let (version, body) = $crate::value::split_version(bytes)?;
                match version {
                    $version => $crate::value::from_postcard(body),
                    $($old => $crate::value::from_postcard::<$shape>(body).map(::std::convert::From::from),)*
                    other => ::std::result::Result::Err($crate::value::unknown_version(other)),
                }
            }
        }
    };
}

versioned!(u32, 1);
versioned!(u64, 1);
versioned!(i64, 1);
versioned!(bool, 1);
versioned!((), 1);

const RAW: u8 = 1;

fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(bytes.len() + 1);
    row.push(RAW);
    row.extend_from_slice(bytes);
    row
}

fn unraw(bytes: &[u8]) -> Result<&[u8], Corrupt> {
    match split_version(bytes)? {
        (RAW, body) => Ok(body),
        (other, _) => Err(unknown_version(other)),
    }
}

impl Value for Vec<u8> {
    fn encode(&self) -> Vec<u8> {
        raw(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        unraw(bytes).map(<[u8]>::to_vec)
    }
}

impl Value for Bytes {
    fn encode(&self) -> Vec<u8> {
        raw(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        unraw(bytes).map(Self::copy_from_slice)
    }
}

impl Value for String {
    fn encode(&self) -> Vec<u8> {
        raw(self.as_bytes())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let text =
            std::str::from_utf8(unraw(bytes)?).map_err(|_| Corrupt::new("the row is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

impl Value for Position {
    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        u64::decode(bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    mod v1 {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub struct Profile {
            pub name: String,
        }
        crate::versioned!(Profile, 1);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Profile {
        name: String,
        age: Option<u8>,
    }
    versioned!(Profile, 2, from 1 => v1::Profile);

    impl From<v1::Profile> for Profile {
        fn from(old: v1::Profile) -> Self {
            Self {
                name: old.name,
                age: None,
            }
        }
    }

    #[test]
    fn an_old_shape_is_still_read() {
        let old = v1::Profile { name: "a".into() }.encode();
        let expected = Profile {
            name: "a".into(),
            age: None,
        };
        assert_eq!(Profile::decode(&old), Ok(expected));
        let new = Profile {
            name: "b".into(),
            age: Some(7),
        };
        assert_eq!(new.encode()[0], 2);
        assert_eq!(Profile::decode(&new.encode()), Ok(new));
    }

    #[test]
    fn what_is_no_row_is_refused() {
        assert!(Profile::decode(&[]).is_err());
        assert!(Profile::decode(&[3, 1, b'a', 0]).is_err());
        assert!(Profile::decode(&[2, 1]).is_err());
        assert!(
            Profile::decode(&[2, 1, b'a', 0, 0]).is_err(),
            "something follows"
        );
        assert!(String::decode(&[1, 0xFF]).is_err());
        assert!(String::decode(&[2, b'a']).is_err());
        assert!(u64::decode(&[1]).is_err());
    }

    #[test]
    fn plain_values_come_back() {
        assert_eq!(u64::decode(&u64::MAX.encode()), Ok(u64::MAX));
        assert_eq!(i64::decode(&i64::MIN.encode()), Ok(i64::MIN));
        assert_eq!(<()>::decode(&().encode()), Ok(()));
        assert_eq!(bool::decode(&true.encode()), Ok(true));
        assert_eq!(String::decode(&"ü".to_owned().encode()), Ok("ü".to_owned()));
        assert_eq!(Vec::decode(&vec![0u8, 1].encode()), Ok(vec![0u8, 1]));
        assert_eq!(Position::decode(&Position(9).encode()), Ok(Position(9)));
    }
}
