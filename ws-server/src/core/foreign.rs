//! Whom the session of another application names.

use serde_json::Value;
use ws_session::{InvalidUserId, UserId};

use super::php::{InvalidPhp, PhpValues, Scalar};
use crate::config::{LookupFormat, PhpHandler};

/// Why a session names nobody although it should. None of it is what the session holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is not what PHP writes: {0}")]
    Php(#[from] InvalidPhp),
    #[error("it is not JSON")]
    Json,
    #[error("it is not base64")]
    Base64,
    #[error("the user is neither text nor an integer")]
    Type,
    #[error("the user is not UTF-8")]
    Utf8,
    #[error(transparent)]
    User(#[from] InvalidUserId),
}

/// Whom the variables of a PHP session name; nobody if none of these is set.
///
/// # Errors
///
/// [`Unreadable`]
pub(crate) fn user_of_session(
    text: &[u8],
    handler: PhpHandler,
    keys: &[String],
) -> Result<Option<UserId>, Unreadable> {
    user_of_php(&PhpValues::session(text, handler)?, keys)
}

/// Whom names what is stored somewhere in that format.
///
/// # Errors
///
/// [`Unreadable`]
pub(crate) fn user_of_stored(
    stored: &[u8],
    format: LookupFormat,
    keys: &[String],
) -> Result<Option<UserId>, Unreadable> {
    match format {
        LookupFormat::Plain => user(stored),
        LookupFormat::Json => {
            let value: Value = serde_json::from_slice(stored).map_err(|_| Unreadable::Json)?;
            user_of_json(&value, keys)
        }
        LookupFormat::Php => user_of_serialized(stored, keys),
        LookupFormat::PhpBase64 => {
            use base64::Engine as _;
            let stored = base64::engine::general_purpose::STANDARD.decode(stored.trim_ascii());
            user_of_serialized(&stored.map_err(|_| Unreadable::Base64)?, keys)
        }
    }
}

/// Caches serialize what they are given, and what they are given is often serialized already.
fn user_of_serialized(stored: &[u8], keys: &[String]) -> Result<Option<UserId>, Unreadable> {
    let values = PhpValues::value(stored)?;
    match values.scalar() {
        Scalar::Text(inner) if !keys.is_empty() => user_of_php(&PhpValues::value(inner)?, keys),
        _ => user_of_php(&values, keys),
    }
}

fn user_of_php(values: &PhpValues<'_>, keys: &[String]) -> Result<Option<UserId>, Unreadable> {
    if keys.is_empty() {
        return user_of_scalar(values.scalar());
    }
    for key in keys {
        if let Some(scalar) = values.get(key)
            && let Some(user) = user_of_scalar(scalar)?
        {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

fn user_of_scalar(scalar: Scalar<'_>) -> Result<Option<UserId>, Unreadable> {
    match scalar {
        Scalar::Null | Scalar::Boolean(false) => Ok(None),
        Scalar::Integer(number) => user(number.to_string().as_bytes()),
        Scalar::Text(text) => user(text),
        Scalar::Boolean(true) | Scalar::Other => Err(Unreadable::Type),
    }
}

fn user_of_json(value: &Value, keys: &[String]) -> Result<Option<UserId>, Unreadable> {
    if keys.is_empty() {
        return user_of_json_scalar(value);
    }
    for key in keys {
        let found = value.get(key).or_else(|| {
            key.split('.').try_fold(value, |value, name| match value {
                Value::Array(values) => values.get(name.parse::<usize>().ok()?),
                value => value.get(name),
            })
        });
        if let Some(value) = found
            && let Some(user) = user_of_json_scalar(value)?
        {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

fn user_of_json_scalar(value: &Value) -> Result<Option<UserId>, Unreadable> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            user(number.to_string().as_bytes())
        }
        Value::String(text) => user(text.as_bytes()),
        _ => Err(Unreadable::Type),
    }
}

/// Nothing is not logged in, nor is 0: many applications give it to all of their guests, and no
/// database counts from there.
fn user(text: &[u8]) -> Result<Option<UserId>, Unreadable> {
    if text.is_empty() || text == b"0" {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| Unreadable::Utf8)?;
    Ok(Some(UserId::new(text)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(
        stored: &str,
        format: LookupFormat,
        keys: &[&str],
    ) -> Result<Option<String>, Unreadable> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let user = user_of_stored(stored.as_bytes(), format, &keys);
        user.map(|user| user.map(|user| user.to_string()))
    }

    fn someone(user: &str) -> Result<Option<String>, Unreadable> {
        Ok(Some(user.to_owned()))
    }

    #[test]
    fn the_first_key_that_is_set_names_the_user() {
        let session = b"a|N;b|b:0;c|s:0:\"\";g|i:0;h|s:1:\"0\";id|i:-1;user|a:1:{s:2:\"id\";s:1:\"7\";}x|d:1.5;y|b:1;";
        let user = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            user_of_session(session, PhpHandler::Php, &keys)
        };
        let is = |name: &str| Ok(Some(UserId::new(name).unwrap()));
        assert_eq!(user(&["a", "b", "c", "g", "h", "none", "user.id"]), is("7"));
        assert_eq!(user(&["id"]), is("-1"));
        assert_eq!(user(&["a"]), Ok(None));
        assert_eq!(user(&["user"]), Err(Unreadable::Type));
        assert_eq!(user(&["x", "id"]), Err(Unreadable::Type));
        assert_eq!(user(&["y"]), Err(Unreadable::Type));
    }

    #[test]
    fn what_laravel_keeps_in_a_cache_is_serialized_twice() {
        let inner = "a:2:{s:6:\"_token\";s:1:\"x\";s:9:\"login_web\";i:7;}";
        let outer = format!("s:{}:\"{inner}\";", inner.len());
        for stored in [inner, &outer] {
            assert_eq!(
                found(stored, LookupFormat::Php, &["login_web"]),
                someone("7")
            );
            assert_eq!(found(stored, LookupFormat::Php, &["login"]), Ok(None));
        }
        let base64 = "YToxOntzOjI6ImlkIjtpOjc7fQ==";
        assert_eq!(
            found(base64, LookupFormat::PhpBase64, &["id"]),
            someone("7")
        );
        assert_eq!(found("s:1:\"7\";", LookupFormat::Php, &[]), someone("7"));
    }

    #[test]
    fn json_is_looked_into() {
        let json = r#"{"user":{"id":7},"a.b":"8","list":[{"id":"9"}],"no":null}"#;
        for (key, user) in [("user.id", "7"), ("a.b", "8"), ("list.0.id", "9")] {
            assert_eq!(found(json, LookupFormat::Json, &[key]), someone(user));
        }
        assert_eq!(found(json, LookupFormat::Json, &["no", "x.y"]), Ok(None));
        assert_eq!(
            found(json, LookupFormat::Json, &["user"]),
            Err(Unreadable::Type)
        );
        assert_eq!(
            found("{", LookupFormat::Json, &["user"]),
            Err(Unreadable::Json)
        );
        assert_eq!(found("7", LookupFormat::Json, &[]), someone("7"));
    }

    #[test]
    fn text_is_a_user_id_or_nothing() {
        assert_eq!(found("7", LookupFormat::Plain, &[]), someone("7"));
        assert_eq!(found("", LookupFormat::Plain, &[]), Ok(None));
        for wrong in ["a b", "a\n", &"u".repeat(256)] {
            let end = found(wrong, LookupFormat::Plain, &[]);
            assert!(matches!(end, Err(Unreadable::User(_))), "{wrong:?}");
        }
        let end = user_of_stored(b"\xff", LookupFormat::Plain, &[]);
        assert_eq!(end, Err(Unreadable::Utf8));
    }

    proptest! {
        #[test]
        fn prop_arbitrary_bytes_name_a_user_or_nobody(stored in prop::collection::vec(any::<u8>(), 0..200)) {
            let keys = ["id".to_owned(), "user.id".to_owned()];
            for format in [LookupFormat::Plain, LookupFormat::Json, LookupFormat::Php, LookupFormat::PhpBase64] {
                let _ = user_of_stored(&stored, format, &keys);
                let _ = user_of_stored(&stored, format, &[]);
            }
        }
    }
}
