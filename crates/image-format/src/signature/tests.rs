use super::{SignatureError, verify_signature};
use std::io::Cursor;

fn sign(pair: &minisign::KeyPair, data: &[u8]) -> String {
    minisign::sign(None, &pair.sk, Cursor::new(data), Some("esir image"), None).unwrap().into_string()
}

#[test]
fn the_right_key_over_the_right_bytes_and_nothing_else() {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let other = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let text = sign(&pair, b"manifest");
    let line = pair.pk.to_base64();
    let file = pair.pk.to_box().unwrap().into_string();
    let stranger = other.pk.to_base64();

    let key = verify_signature(b"manifest", &text, &[stranger.clone(), line.clone()]).unwrap();
    assert_eq!(verify_signature(b"manifest", &text, &[file]), Ok(key));
    assert_eq!(
        verify_signature(b"manifesT", &text, std::slice::from_ref(&line)),
        Err(SignatureError::Wrong(key))
    );
    assert_eq!(verify_signature(b"manifest", &text, &[stranger]), Err(SignatureError::UnknownKey(key)));
    assert_eq!(verify_signature(b"manifest", &text, &[]), Err(SignatureError::NoTrustedKeys));
    assert_eq!(verify_signature(b"manifest", &text, &["!".into()]), Err(SignatureError::TrustedKey(1)));
    assert_eq!(verify_signature(b"manifest", "garbage", &[line]), Err(SignatureError::Malformed));
    assert!(pair.pk.to_box().unwrap().into_string().contains(&key.to_string()));
}

#[test]
fn a_changed_trusted_comment_is_refused() {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let text = sign(&pair, b"manifest").replace("esir image", "esir imagE");
    assert!(matches!(
        verify_signature(b"manifest", &text, &[pair.pk.to_base64()]),
        Err(SignatureError::Wrong(_))
    ));
}
