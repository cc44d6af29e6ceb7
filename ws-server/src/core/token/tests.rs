use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, RawConfig, TokenAlgorithm};

/// The moment of the tests, in seconds since 1970.
const NOW: f64 = 1_800_000_000.0;
const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";

/// Made by OpenSSL, as what follows; the private keys are gone.
const RSA: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvPGwLbErVuQN5wo5cvYR
gzCqmxrr8WYvRiLUgz798mVWC8tYyIDxxwocc6REk6Bf7Xg+q6oDcV95GSO3DHrU
LvjIMVpS7Vnp3Z2U71DysSokTFalAbFuMwbPdqXLe+oUlEGNqoukT01yxW7NiQKh
H5AQ+QRPbkr2ImvdvxSBszciJg69j9O16f8R+c1/72AJ2c0J0PTJYzm81RoDOU3k
22Wz1MkiV+P0wT2B1wP1eQgetzY/Ab1tFbj/dbMTuTxHRf4jpI5x6it4CoLFrkXa
Z6WRB1ITx0Hjhzvf3E6fNvWMGUZCRQtzhKrVRQpn/GDki8Dwu4ysCairUinDWZtJ
hwIDAQAB
-----END PUBLIC KEY-----
";
const ED25519: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAoef/TdcRWvm+nNmDMNskuNezVnd8D8/dbdxQ3PlMx/s=
-----END PUBLIC KEY-----
";
const P256: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhrpSoP7NQzzFlZy9BiXM0VWISORl
MxcbXe5HHFP+2TR0VcU/bQ8/nwPrFrAlO2+u0xRufQd4RhbfhoObU8G2vA==
-----END PUBLIC KEY-----
";
const RSA_1024: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDOe2geyLzjgqmVRuklty/fHhI/
PQxCFMi/aFi59pooILEqIXqsTKBb3F1z4iTPi3T7yCSeIzWn/zWiDkZ4U64f4ngC
beYC7QETPdOyhX47iCG4VOhKrxiBATr3/BpfeeBnzozwsjCJ80jIJ1gOTSZEsltA
fvBDp1vTfcP5dmQ2TQIDAQAB
-----END PUBLIC KEY-----
";
const P384: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEzcDNRT+kBC9Mks2DXBRugG3hFb8/6WW/
3Kr/lOROQMZA2h/erUr3bFItLUc2VNzBc2018RLL3Q83ql18e+7Ktm0Ttfni0ZET
idXmCCSjR2sW/JUOHSbBfCO/uldCyL3L
-----END PUBLIC KEY-----
";
/// For user 7 until 2100, signed with `RSA` and `ED25519`.
const BY_RSA: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.V0_znS5ot\
     gqEw3ONymnEz37P6xmTDXmjfR4N6bTocd48pKIso6Eafc1YygCUXhBuVFcOuyJB88Wlp8ztM7y338xxAQuC0\
     HqXSzeQIBHNfvc-EhBgXXHZ3fHuV38wc1Ca6tS55Nzm6MVfDqOyG5gHkCjTRRzNSHc8KJUE9ZlS4STlHptIA\
     CcD6Pqj9pMoNROm8CQaHJ_pbqXY-94SBh7jtkCwrMLmPOs863b9YVOLkK3njJfFRIFY4fVQk3SlhSGeHQ0W6\
     oiLKoodnj7LMw7lzUoyrnGP6AHuWC9HS1sNDr7fQoUZdqAtqZkSV4ZSCE1HsimtlYiks9FGVpRJbqfJfQ";
const BY_ED25519: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImUxIn0.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.baoutWqBa\
     q1ww-ZHxrOdefr9qq4Z3wbZIcKYlNF8Gqu10gn2WPfe5Z2IJbDxb3cMyyaufk-r3XvMtbi0XdLyCw";
/// The modulus of `RSA` and the point of `ED25519` as keys in JSON have them.
const RSA_N: &str = "vPGwLbErVuQN5wo5cvYRgzCqmxrr8WYvRiLUgz798mVWC8tYyIDxxwocc6REk6Bf7Xg-q6oDcV95GSO3DHrU\
     LvjIMVpS7Vnp3Z2U71DysSokTFalAbFuMwbPdqXLe-oUlEGNqoukT01yxW7NiQKhH5AQ-QRPbkr2ImvdvxSB\
     szciJg69j9O16f8R-c1_72AJ2c0J0PTJYzm81RoDOU3k22Wz1MkiV-P0wT2B1wP1eQgetzY_Ab1tFbj_dbMT\
     uTxHRf4jpI5x6it4CoLFrkXaZ6WRB1ITx0Hjhzvf3E6fNvWMGUZCRQtzhKrVRQpn_GDki8Dwu4ysCairUinD\
     WZtJhw";
const ED25519_X: &str = "oef_TdcRWvm-nNmDMNskuNezVnd8D8_dbdxQ3PlMx_s";

fn rules(settings: &[(&str, &str)]) -> Rules {
    let mut raw = RawConfig::default();
    raw.set("identity.token.secret_file", "/secret");
    for (key, value) in settings {
        raw.set(&format!("identity.token.{key}"), *value);
    }
    let config = Config::from_raw(&raw, "/".as_ref()).unwrap();
    Rules::new(config.identity().token.as_ref().unwrap())
}

fn secret() -> KeySet {
    let mut keys = KeySet::default();
    keys.add_secret(SECRET).unwrap();
    keys
}

fn jwk_set(keys: Value) -> Result<KeySet, InvalidKeys> {
    let mut set = KeySet::default();
    set.add_jwk_set(json!({ "keys": keys }).to_string().as_bytes())?;
    Ok(set)
}

fn part(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims, whatever they are, signed with a secret.
fn signed(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>, secret: &[u8]) -> String {
    let signed = format!("{}.{}", part(header), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", part(signature))
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn token(claims: Value) -> String {
    signed(HS256, claims.to_string(), SECRET)
}

fn verdict(token: &str, settings: &[(&str, &str)]) -> Result<Claims, TokenFault> {
    judge(token, &secret(), &rules(settings), NOW)
}

fn user(token: &str, settings: &[(&str, &str)]) -> Result<String, TokenFault> {
    verdict(token, settings).map(|claims| claims.user.to_string())
}

#[test]
fn the_example_of_rfc_7515_a1_holds() {
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkz\
                 ODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU\
                 1p1r_wW1gFWFOEjXk";
    let keys = jwk_set(json!([{
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    }]))
    .unwrap();
    let rules = rules(&[("user_claim", "iss")]);
    let claims = judge(token, &keys, &rules, 1_300_819_379.0).unwrap();
    assert_eq!(claims.user.as_str(), "joe");
    assert_eq!(claims.expires_in, Some(std::time::Duration::from_secs(1)));
    assert_eq!(
        judge(token, &keys, &rules, 1_300_819_380.0),
        Err(TokenFault::Expired)
    );
}

#[test]
fn the_example_of_rfc_7515_a3_holds() {
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9l\
                 eGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCg\
                 fTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let keys = jwk_set(json!([{
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }]))
    .unwrap();
    let rules = rules(&[("user_claim", "iss")]);
    let claims = judge(token, &keys, &rules, 1_300_819_379.0).unwrap();
    assert_eq!(claims.user.as_str(), "joe");
}

#[test]
fn public_keys_verify_what_openssl_signed() {
    for (token, pem, jwk) in [
        (
            BY_RSA,
            RSA,
            json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "kid": "r1", "use": "sig", "alg": "RS256" }),
        ),
        (
            BY_ED25519,
            ED25519,
            json!({ "kty": "OKP", "crv": "Ed25519", "x": ED25519_X, "kid": "e1" }),
        ),
    ] {
        let mut keys = KeySet::default();
        keys.add_pem(format!("{P256}{pem}").as_bytes()).unwrap();
        for keys in [keys, jwk_set(json!([jwk])).unwrap()] {
            let claims = judge(token, &keys, &rules(&[]), NOW).unwrap();
            assert_eq!(claims.user.as_str(), "7");
            // Each bit of the signature counts.
            let end = token.rfind('.').unwrap() + 1;
            let other = if &token[end..=end] == "A" { "B" } else { "A" };
            let forged = format!("{}{other}{}", &token[..end], &token[end + 1..]);
            assert_eq!(
                judge(&forged, &keys, &rules(&[]), NOW),
                Err(TokenFault::Signature)
            );
        }
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let mut keys = KeySet::default();
    keys.add_pem(RSA.as_bytes()).unwrap();
    for secret in [RSA.as_bytes(), RSA.trim_end().as_bytes(), RSA_N.as_bytes()] {
        let token = signed(HS256, r#"{"sub":"7","exp":4102444800}"#, secret);
        assert_eq!(
            judge(&token, &keys, &rules(&[]), NOW),
            Err(TokenFault::Algorithm)
        );
    }
    // Nor the other way: what is signed with the secret says that it is by a key.
    let header = r#"{"alg":"RS256"}"#;
    let token = signed(header, r#"{"sub":"7","exp":4102444800}"#, SECRET);
    assert_eq!(
        judge(&token, &secret(), &rules(&[]), NOW),
        Err(TokenFault::Algorithm)
    );
    keys.add_secret(SECRET).unwrap();
    assert_eq!(
        judge(&token, &keys, &rules(&[]), NOW),
        Err(TokenFault::Signature)
    );
}

#[test]
fn a_token_does_not_choose_its_algorithm() {
    let claims = r#"{"sub":"7","exp":4102444800}"#;
    for algorithm in [
        "none", "None", "NONE", "", "hs256", "HS384", "HS512", "PS256",
    ] {
        let header = json!({ "alg": algorithm }).to_string();
        let token = signed(&header, claims, SECRET);
        let unsigned = format!("{}.{}.", part(&header), part(claims));
        for token in [token, unsigned] {
            assert_eq!(user(&token, &[]), Err(TokenFault::Algorithm), "{algorithm}");
        }
    }
    let unsigned = format!("{}.{}.", part(HS256), part(claims));
    assert_eq!(user(&unsigned, &[]), Err(TokenFault::Signature));
}

#[test]
fn only_allowed_algorithms_keep_their_keys() {
    let mut keys = secret();
    keys.add_pem(ED25519.as_bytes()).unwrap();
    keys.restrict(Some(&[TokenAlgorithm::EdDsa])).unwrap();
    let by_secret = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
    assert_eq!(
        judge(&by_secret, &keys, &rules(&[]), NOW),
        Err(TokenFault::Algorithm)
    );
    assert!(judge(BY_ED25519, &keys, &rules(&[]), NOW).is_ok());
    assert_eq!(
        secret().restrict(Some(&[TokenAlgorithm::EdDsa])),
        Err(InvalidKeys::NoKey)
    );
}

#[test]
fn a_kid_chooses_the_key() {
    let other = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqr";
    let keys = jwk_set(json!([
        { "kty": "oct", "kid": "new", "k": part(SECRET) },
        { "kty": "oct", "kid": "old", "k": other },
    ]))
    .unwrap();
    let claims = r#"{"sub":"7","exp":4102444800}"#;
    for (kid, expected) in [
        ("new", Ok("7".to_owned())),
        ("old", Err(TokenFault::Signature)),
        ("gone", Err(TokenFault::UnknownKey)),
        ("", Err(TokenFault::UnknownKey)),
        ("../new", Err(TokenFault::UnknownKey)),
    ] {
        let header = json!({ "alg": "HS256", "kid": kid }).to_string();
        let token = signed(header, claims, SECRET);
        let end = judge(&token, &keys, &rules(&[]), NOW).map(|claims| claims.user.to_string());
        assert_eq!(end, expected, "{kid}");
    }
    // Without one, whichever it is.
    let token = signed(HS256, claims, SECRET);
    assert!(judge(&token, &keys, &rules(&[]), NOW).is_ok());
}

#[test]
fn what_is_not_a_token_is_malformed() {
    let good = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
    assert_eq!(user(&good, &[]), Ok("7".to_owned()));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = head.split_once('.').unwrap();
    let malformed = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        head.to_owned(),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}!"),
        signed("", "{}", SECRET),
        signed("[]", "{}", SECRET),
        signed("{}", "{}", SECRET),
        signed(r#"{"alg":1}"#, "{}", SECRET),
        signed(r#"{"alg":"HS256","alg":"none"}"#, "{}", SECRET),
        signed(r#"{"alg":"HS256","kid":7}"#, "{}", SECRET),
        signed(HS256, "", SECRET),
        signed(HS256, "7", SECRET),
        signed(HS256, "[]", SECRET),
        signed(HS256, "{", SECRET),
        signed(HS256, b"{\"sub\":\"\xff\",\"exp\":4102444800}", SECRET),
        signed(HS256, "[".repeat(4000), SECRET),
    ];
    for token in malformed {
        assert_eq!(user(&token, &[]), Err(TokenFault::Malformed), "{token}");
    }
    let huge = token(json!({ "sub": "7", "exp": 4_102_444_800_u64, "x": "x".repeat(8192) }));
    assert_eq!(user(&huge, &[]), Err(TokenFault::TooLong));
    let critical = signed(
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        "{}",
        SECRET,
    );
    assert_eq!(user(&critical, &[]), Err(TokenFault::Critical));
    let null = signed(r#"{"alg":"HS256","crit":null}"#, "{}", SECRET);
    assert_eq!(user(&null, &[]), Err(TokenFault::Critical));
}

#[test]
fn nobody_is_user_0() {
    for sub in [json!(0), json!("0")] {
        let guest = token(json!({ "sub": sub, "exp": 4_102_444_800_u64 }));
        assert_eq!(user(&guest, &[]), Err(TokenFault::NoUser));
    }
}

#[test]
fn a_cut_token_is_none_wherever_it_is_cut() {
    let good = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
    for end in 0..good.len() {
        assert!(user(&good[..end], &[]).is_err(), "{end}");
    }
}

#[test]
fn times_are_kept() {
    let now = 1_800_000_000;
    for (claims, leeway, expected) in [
        (json!({ "exp": now + 1 }), "0s", Ok(Some(1))),
        (json!({ "exp": now }), "0s", Err(TokenFault::Expired)),
        (json!({ "exp": now - 9 }), "10s", Ok(Some(1))),
        (json!({ "exp": now - 10 }), "10s", Err(TokenFault::Expired)),
        (json!({ "exp": now + 1, "nbf": now }), "0s", Ok(Some(1))),
        (
            json!({ "exp": now + 9, "nbf": now + 1 }),
            "0s",
            Err(TokenFault::NotYet),
        ),
        (
            json!({ "exp": now + 9, "nbf": now + 5 }),
            "5s",
            Ok(Some(14)),
        ),
        (json!({ "exp": 0 }), "0s", Err(TokenFault::Expired)),
        (json!({ "exp": -1 }), "0s", Err(TokenFault::Expired)),
        (json!({ "exp": 1e300 }), "0s", Ok(None)),
        (json!({}), "0s", Err(TokenFault::NoEnd)),
        (
            json!({ "exp": "4102444800" }),
            "0s",
            Err(TokenFault::ClaimType("exp")),
        ),
        (
            json!({ "exp": null }),
            "0s",
            Err(TokenFault::ClaimType("exp")),
        ),
        (
            json!({ "exp": now + 1, "nbf": "0" }),
            "0s",
            Err(TokenFault::ClaimType("nbf")),
        ),
        (
            json!({ "exp": now + 1, "nbf": [0] }),
            "0s",
            Err(TokenFault::ClaimType("nbf")),
        ),
        (
            json!({ "exp": now + 1, "iat": true }),
            "0s",
            Err(TokenFault::ClaimType("iat")),
        ),
    ] {
        let mut claims = claims;
        claims["sub"] = json!("7");
        let end = verdict(&token(claims.clone()), &[("leeway", leeway)]);
        let end = end.map(|claims| claims.expires_in.map(|left| left.as_secs()));
        assert_eq!(end, expected, "{claims}");
    }
    let endless = token(json!({ "sub": "7" }));
    let end = verdict(&endless, &[("require_exp", "false")]).unwrap();
    assert_eq!(end.expires_in, None);
}

#[test]
fn issuer_and_audience_must_be_ours() {
    let ours = [("issuer", "https://a,https://b"), ("audience", "ws,chat")];
    for (issuer, audience, expected) in [
        (json!("https://a"), json!("ws"), Ok(())),
        (json!("https://b"), json!(["x", "chat"]), Ok(())),
        (json!("https://c"), json!("ws"), Err(TokenFault::Issuer)),
        (json!("https://a/"), json!("ws"), Err(TokenFault::Issuer)),
        (json!(null), json!("ws"), Err(TokenFault::ClaimType("iss"))),
        (
            json!(["https://a"]),
            json!("ws"),
            Err(TokenFault::ClaimType("iss")),
        ),
        (json!("https://a"), json!("WS"), Err(TokenFault::Audience)),
        (json!("https://a"), json!([]), Err(TokenFault::Audience)),
        (
            json!("https://a"),
            json!(["ws", 7]),
            Err(TokenFault::ClaimType("aud")),
        ),
        (
            json!("https://a"),
            json!({ "ws": true }),
            Err(TokenFault::ClaimType("aud")),
        ),
    ] {
        let claims =
            json!({ "sub": "7", "exp": 4_102_444_800_u64, "iss": issuer, "aud": audience });
        let end = verdict(&token(claims.clone()), &ours).map(|_| ());
        assert_eq!(end, expected, "{claims}");
    }
    let bare = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
    assert_eq!(user(&bare, &ours[..1]), Err(TokenFault::Issuer));
    assert_eq!(user(&bare, &ours[1..]), Err(TokenFault::Audience));
    // One that is for somebody, where it is not said that we are.
    let others = token(json!({ "sub": "7", "exp": 4_102_444_800_u64, "aud": "ws" }));
    assert_eq!(user(&others, &[]), Err(TokenFault::Audience));
}

#[test]
fn a_user_is_one_word_or_a_whole_number() {
    let long = "u".repeat(255);
    let wrong = TokenFault::ClaimType("that names the user");
    for (sub, expected) in [
        (json!("7"), Ok("7")),
        (json!(7), Ok("7")),
        (json!(-7), Ok("-7")),
        (json!(u64::MAX), Ok("18446744073709551615")),
        (json!("jörg@example"), Ok("jörg@example")),
        (json!("../../etc/passwd"), Ok("../../etc/passwd")),
        (json!(long), Ok(&*long)),
        (json!(7.5), Err(wrong)),
        (json!(1e30), Err(wrong)),
        (json!(true), Err(wrong)),
        (json!(null), Err(wrong)),
        (json!(["7"]), Err(wrong)),
        (json!({ "id": "7" }), Err(wrong)),
    ] {
        let token = token(json!({ "sub": sub, "exp": 4_102_444_800_u64 }));
        assert_eq!(
            user(&token, &[]).as_deref(),
            expected.as_ref().copied(),
            "{sub}"
        );
    }
    for sub in ["", "a b", "a\n", "a\0", "\u{a0}", &"u".repeat(256)] {
        let token = token(json!({ "sub": sub, "exp": 4_102_444_800_u64 }));
        let end = user(&token, &[]);
        assert!(matches!(end, Err(TokenFault::User(_))), "{sub:?}: {end:?}");
    }
    let nobody = token(json!({ "exp": 4_102_444_800_u64 }));
    assert_eq!(user(&nobody, &[]), Err(TokenFault::NoUser));
    let other = token(json!({ "uid": 7, "sub": "8", "exp": 4_102_444_800_u64 }));
    assert_eq!(user(&other, &[("user_claim", "uid")]), Ok("7".to_owned()));
}

#[test]
fn a_session_has_the_name_that_the_claim_gives_it() {
    let settings = [("session_claim", "sid")];
    let session = |sid: Value| {
        let claims = json!({ "sub": "7", "sid": sid, "exp": 4_102_444_800_u64 });
        verdict(&token(claims), &settings).map(|claims| claims.session)
    };
    let expected = ws_session::SessionId::of_name("abc");
    assert_eq!(session(json!("abc")), Ok(Some(expected)));
    let wrong = Err(TokenFault::ClaimType("that names the session"));
    assert_eq!(session(json!("")), wrong);
    assert_eq!(session(json!(false)), wrong);
    let without = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
    assert_eq!(verdict(&without, &settings).unwrap().session, None);
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let mut keys = KeySet::default();
    assert_eq!(
        keys.add_secret(&[b'a'; 31]),
        Err(InvalidKeys::ShortSecret { size: 31 })
    );
    assert_eq!(
        keys.add_secret(&[&[b'a'; 31][..], b"\r\n"].concat()),
        Err(InvalidKeys::ShortSecret { size: 31 })
    );
    for pem in [RSA, &format!("\n{RSA}")] {
        assert_eq!(keys.add_secret(pem.as_bytes()), Err(InvalidKeys::PemSecret));
    }
    for (pem, expected) in [
        ("", InvalidKeys::Pem),
        ("no PEM", InvalidKeys::Pem),
        (&RSA[..200], InvalidKeys::Pem),
        (RSA_1024, InvalidKeys::PublicKey { index: 1 }),
        (&format!("{RSA}{P384}"), InvalidKeys::PublicKey { index: 2 }),
        (&RSA.repeat(33), InvalidKeys::TooMany),
    ] {
        assert_eq!(
            KeySet::default().add_pem(pem.as_bytes()),
            Err(expected),
            "{pem}"
        );
    }
    for (key, expected) in [
        (json!({ "kty": "oct", "k": "c2hvcnQ" }), 1),
        (json!({ "kty": "oct" }), 1),
        (json!({ "kty": "RSA", "n": RSA_N }), 1),
        (json!({ "kty": "RSA", "n": RSA_N, "e": "AA" }), 1),
        (json!({ "kty": "RSA", "n": RSA_N, "e": "AQ" }), 1),
        (json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }), 1),
        (json!({ "kty": "OKP", "crv": "Ed25519", "x": "AQAB" }), 1),
        (
            json!({ "kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB" }),
            1,
        ),
        (json!({ "kty": 7 }), 1),
        (json!(7), 1),
    ] {
        let end = jwk_set(json!([key]));
        assert_eq!(
            end.err(),
            Some(InvalidKeys::Jwk { index: expected }),
            "{key}"
        );
    }
    for json in ["", "{}", "[]", r#"{"keys":{}}"#] {
        let end = KeySet::default().add_jwk_set(json.as_bytes());
        assert_eq!(end, Err(InvalidKeys::JwkSet), "{json}");
    }
}

#[test]
fn keys_for_other_purposes_are_passed_over() {
    let mut keys = jwk_set(json!([
        { "kty": "RSA", "use": "enc", "n": RSA_N, "e": "AQAB" },
        { "kty": "RSA", "alg": "PS256", "n": RSA_N, "e": "AQAB" },
        { "kty": "RSA", "key_ops": ["encrypt"], "n": RSA_N, "e": "AQAB" },
        { "kty": "EC", "crv": "P-384", "x": "AQAB", "y": "AQAB" },
        { "kty": "AKP", "alg": "ML-DSA-44", "pub": "AQAB" },
    ]))
    .unwrap();
    assert_eq!(keys.restrict(None), Err(InvalidKeys::NoKey));
}

proptest! {
    #[test]
    fn prop_arbitrary_text_is_no_token(text in any::<String>()) {
        prop_assert!(user(&text, &[]).is_err());
    }

    #[test]
    fn prop_arbitrary_claims_are_judged_without_panic(claims in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = user(&signed(HS256, claims, SECRET), &[]);
    }

    #[test]
    fn prop_arbitrary_headers_are_judged_without_panic(header in prop::collection::vec(any::<u8>(), 0..200)) {
        let token = signed(header, r#"{"sub":"7","exp":4102444800}"#, SECRET);
        prop_assert!(user(&token, &[]).is_err());
    }

    #[test]
    fn prop_a_changed_token_is_no_token(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let good = token(json!({ "sub": "7", "exp": 4_102_444_800_u64 }));
        let at = at.index(good.len());
        let changed = format!("{}{to}{}", &good[..at], &good[at + 1..]);
        prop_assume!(changed != good);
        prop_assert!(user(&changed, &[]).is_err());
    }

    #[test]
    fn prop_arbitrary_keys_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut keys = KeySet::default();
        let _ = (keys.add_secret(&bytes), keys.add_pem(&bytes), keys.add_jwk_set(&bytes));
    }
}
