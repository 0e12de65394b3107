//! Keys whose encoding keeps their order.
//!
//! Comparing two encoded keys byte by byte gives what comparing the values gives, and no encoded
//! key is the beginning of another one of the same type. So a range of values is a range of bytes,
//! and the encoding of the first elements of a tuple is a prefix of exactly the tuples that begin
//! with them.

use crate::{Corrupt, Position};

/// Something that can be the key of a table.
pub trait Key: Sized {
    /// Appends the encoding to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Takes one key off the front of `input`.
    ///
    /// # Errors
    /// [`Corrupt`] when `input` does not begin with an encoded key.
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt>;

    /// The encoding by itself.
    fn to_key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.encode(&mut out);
        out
    }
}

/// Decodes a key and insists that nothing follows it.
pub(crate) fn decode_whole<K: Key>(mut input: &[u8]) -> Result<K, Corrupt> {
    let key = K::decode(&mut input)?;
    if input.is_empty() {
        Ok(key)
    } else {
        Err(Corrupt::new(format!(
            "{} bytes follow the key",
            input.len()
        )))
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], Corrupt> {
    let Some((head, tail)) = input.split_at_checked(count) else {
        return Err(Corrupt::new("the key ends too early"));
    };
    *input = tail;
    Ok(head)
}

macro_rules! unsigned {
    ($($int:ty),*) => {$(
        impl Key for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
                <[u8; size_of::<$int>()]>::decode(input).map(Self::from_be_bytes)
            }
        }
    )*};
}
unsigned!(u8, u16, u32, u64);

/// The sign bit is turned over, so that negative numbers come first.
impl Key for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.cast_unsigned() ^ (1 << 63)).encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        Ok((u64::decode(input)? ^ (1 << 63)).cast_signed())
    }
}

impl Key for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Corrupt::new(format!("{other} is not a truth value"))),
        }
    }
}

impl Key for Position {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        u64::decode(input).map(Self)
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let bytes = take(input, N)?;
        bytes
            .try_into()
            .map_err(|_| Corrupt::new("the key ends too early"))
    }
}

const END: u8 = 0;
const ESCAPE: u8 = 1;

/// Ends with a zero byte. The bytes 0 and 1 inside are written as 1 1 and 1 2, so that the end sorts
/// before everything that could stand in its place and the order stays that of the bytes.
impl Key for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let mut bytes = Self::new();
        loop {
            match u8::decode(input)? {
                END => return Ok(bytes),
                ESCAPE => match u8::decode(input)? {
                    escaped @ 1..=2 => bytes.push(escaped - 1),
                    other => return Err(Corrupt::new(format!("{other} can't be escaped"))),
                },
                plain => bytes.push(plain),
            }
        }
    }
}

pub(crate) fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 1);
    for &byte in bytes {
        if byte <= ESCAPE {
            out.extend_from_slice(&[ESCAPE, byte + 1]);
        } else {
            out.push(byte);
        }
    }
    out.push(END);
}

/// Ordered by code points, like [`str`].
impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        Self::from_utf8(Vec::decode(input)?).map_err(|_| Corrupt::new("the key is not UTF-8"))
    }
}

macro_rules! tuple {
    ($($part:ident),*) => {
        impl<$($part: Key),*> Key for ($($part,)*) {
            #[expect(non_snake_case, reason = "type names serve as variable names")]
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($part,)*) = self;
                $($part.encode(out);)*
            }

            fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
                Ok(($($part::decode(input)?,)*))
            }
        }
    };
}
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);

/// The key of a table with one row.
impl Key for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &mut &[u8]) -> Result<Self, Corrupt> {
        Ok(())
    }
}

/// Implements [`Key`](crate::Key) and [`Value`](crate::Value) for a newtype: `key_newtype!(RoomNum, u64);`.
#[macro_export]
macro_rules! key_newtype {
    ($name:ident, $inner:ty) => {
        impl $crate::Key for $name {
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                $crate::Key::encode(&self.0, out);
            }

            fn decode(input: &mut &[u8]) -> ::std::result::Result<Self, $crate::Corrupt> {
                <$inner as $crate::Key>::decode(input).map(Self)
            }
        }

        impl $crate::Value for $name {
            fn encode(&self) -> ::std::vec::Vec<u8> {
                $crate::Value::encode(&self.0)
            }

            fn decode(bytes: &[u8]) -> ::std::result::Result<Self, $crate::Corrupt> {
                <$inner as $crate::Value>::decode(bytes).map(Self)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn check<K: Key + Ord + Debug + Clone>(a: &K, b: &K) {
        let (x, y) = (a.to_key(), b.to_key());
        assert_eq!(
            x.cmp(&y),
            a.cmp(b),
            "{a:?} and {b:?} are ordered as {x:?} and {y:?}"
        );
        assert_eq!(decode_whole::<K>(&x).as_ref(), Ok(a));
        assert!(
            a == b || !y.starts_with(&x),
            "{a:?} is the beginning of {b:?}"
        );
        // Taken off the front, a key leaves what follows it.
        let joined = [x.as_slice(), y.as_slice()].concat();
        let mut rest = joined.as_slice();
        assert_eq!(K::decode(&mut rest).as_ref(), Ok(a));
        assert_eq!(rest, y);
        for short in 0..x.len() {
            assert!(
                decode_whole::<K>(&x[..short]).is_err(),
                "{a:?} cut at {short}"
            );
        }
    }

    /// Mostly the bytes that the escapes are made of.
    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![3 => 0..=3u8, 1 => any::<u8>()], 0..6)
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[\0\u{1}\u{2}a]{0,5}", any::<String>()]
    }

    proptest! {
        #[test]
        fn order_is_kept(
            a: (u8, u16, u32, u64, i64), b: (u8, u16, u32, u64, i64),
            c: (bool, [u8; 3]), d: (bool, [u8; 3]), e: i64, f: i64,
        ) {
            check(&a, &b);
            check(&c, &d);
            check(&e, &f);
        }

        #[test]
        fn order_of_strings_is_kept(
            a in (text(), awkward(), any::<u64>(), text()), b in (text(), awkward(), any::<u64>(), text()),
        ) {
            check(&a, &b);
            check(&a.0, &b.0);
            check(&a.1, &b.1);
            check(&(a.1.clone(), a.1.clone()), &(a.1.clone(), b.1.clone()));
            check(&(a.1.clone(), a.2), &(b.1.clone(), b.2));
            // The first elements stand for the tuples that begin with them.
            prop_assert!(a.to_key().starts_with(&(a.0.clone(), a.1.clone()).to_key()));
        }

        #[test]
        fn any_bytes_can_be_decoded_or_refused(bytes in awkward()) {
            if let Ok(key) = decode_whole::<(String, Vec<u8>)>(&bytes) {
                prop_assert_eq!(key.to_key(), bytes, "a key has one encoding");
            }
        }
    }
}
