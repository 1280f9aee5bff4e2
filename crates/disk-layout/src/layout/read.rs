//! Values of layouts that people may write in more than one way.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Selector, Size, parse_bytes};

/// More sets of disks than any machine has shelves.
const SETS_MAX: usize = 16;

/// One table, or an array of them.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Selector>, D::Error> {
    struct OneOrMore;
    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<Selector>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table or an array of tables")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Selector::deserialize(MapAccessDeserializer::new(map)).map(|selector| vec![selector])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut sets = Vec::new();
            while let Some(set) = seq.next_element()? {
                if sets.len() == SETS_MAX {
                    return Err(A::Error::custom("too many sets of disks"));
                }
                sets.push(set);
            }
            Ok(sets)
        }
    }
    deserializer.deserialize_any(OneOrMore)
}

/// A number of the unit of the field, or text with a unit.
enum Written {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WrittenVisitor;
        impl Visitor<'_> for WrittenVisitor {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"40GiB\"")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Number(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Written, E> {
                u64::try_from(number).map(Written::Number).map_err(|_| E::custom("a size is not below 0"))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// `None`, a number of bytes, or a text.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Number(bytes)) => Ok(Some(bytes)),
        Some(Written::Text(text)) => parse_bytes(&text).map(Some).ok_or_else(|| {
            D::Error::custom(format_args!("{text:?} is no size of a disk; write one such as \"200GB\""))
        }),
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(mib) => Ok(Self::mib(mib)),
            Written::Text(text) => Self::parse(&text).ok_or_else(|| {
                D::Error::custom(format_args!(
                    "{text:?} is no size; write \"40GiB\", \"rest\", or \"40GiB..\" for the rest but not less"
                ))
            }),
        }
    }
}
