use super::*;
use proptest::prelude::*;

fn data() -> impl Strategy<Value = Data> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Data::Integer),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Data::Bytes),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Data::List),
            prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..8), inner, 0..6)
                .prop_map(Data::Dictionary),
        ]
    })
}

fn owned(value: &Value<'_>) -> Data {
    match &value.kind {
        Kind::Integer(number) => Data::Integer(*number),
        Kind::Bytes(bytes) => Data::Bytes(bytes.to_vec()),
        Kind::List(items) => Data::List(items.iter().map(owned).collect()),
        Kind::Dictionary(entries) => {
            Data::Dictionary(entries.iter().map(|(key, value)| (key.to_vec(), owned(value))).collect())
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(data in data()) {
        let bytes = data.encode();
        let value = Value::parse(&bytes).unwrap();
        prop_assert_eq!(owned(&value), data);
        prop_assert_eq!(value.raw, &bytes[..]);
    }

    /// Strict means: whatever is taken is exactly what we would write.
    #[test]
    fn any_input_is_refused_or_canonical(bytes in prop::collection::vec(prop::sample::select(b"dlie0123456789:-ab".to_vec()), 0..40)) {
        if let Ok(value) = Value::parse(&bytes) {
            prop_assert_eq!(owned(&value).encode(), bytes);
        }
    }

    #[test]
    fn cut_input_is_refused(data in data(), cut in any::<prop::sample::Index>()) {
        let bytes = data.encode();
        prop_assert!(Value::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

#[test]
fn forms_that_are_not_canonical_are_refused() {
    for bad in [
        "",
        "i-0e",
        "i03e",
        "ie",
        "i--1e",
        "i9223372036854775808e",
        "03:abc",
        "-1:a",
        "5:abc",
        "i1",
        "l",
        "d",
        "di1ei2ee",
        "d1:b0:1:a0:e",
        "d1:a0:1:a0:e",
        "d1:ae",
        "i1ei2e",
        "x",
        "99999999999999999999:",
        "+1:a",
    ] {
        assert!(Value::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_bomb_of_lists_ends_at_the_depth_limit() {
    let bomb = vec![b'l'; 40_000];
    assert_eq!(Value::parse(&bomb), Err(BencodeError::TooDeep));
    let mut wide = vec![b'l'];
    wide.extend(b"le".repeat(VALUES_MAX + 1));
    wide.push(b'e');
    assert_eq!(Value::parse(&wide), Err(BencodeError::TooMany));
}

#[test]
fn the_raw_span_is_the_bytes_of_the_value() {
    let input = b"d4:infod1:ai1ee4:tail2:zze";
    let value = Value::parse(input).unwrap();
    assert_eq!(value.get("info").unwrap().raw, b"d1:ai1ee");
    assert_eq!(value.get("tail").unwrap().bytes(), Some(&b"zz"[..]));
    assert_eq!(value.get("none"), None);
}
