//! Names of FIFOs, made from ids that anybody may choose.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::FifoError;

/// Encodes an id as part of a file name.
///
/// Everything but `A-Z a-z 0-9 _ -` is percent-encoded, so names stay inside their directory, no
/// shell expands them, and different ids have different names. An id of over 150 encoded bytes
/// becomes `sha256=` and its hash, the empty one `%`; neither is the encoding of another id.
///
/// ```
/// use ws_ipc::encode_name;
///
/// assert_eq!(encode_name("user_4-2"), "user_4-2");
/// assert_eq!(encode_name("../é"), "%2E%2E%2F%C3%A9");
/// assert_eq!(encode_name(&"x".repeat(151)).len(), 71);
/// ```
pub fn encode_name(id: &str) -> String {
    encode(id, |byte, name| {
        let _never_fails = write!(name, "%{byte:02X}");
    })
}

/// Encodes an id or a whole `user:ip:port` as CarbonPHP names its FIFOs: `/` becomes `:` and `.`
/// becomes `_`.
///
/// A colon stays, and so do `@`, `+` and `,`, which mail addresses and names of sessions have:
/// CarbonPHP's writers look for the name without encoding it. Everything else is encoded as by
/// [`encode_name`]. Different ids may have the same name: `a.b` and `a_b` have.
///
/// ```
/// assert_eq!(ws_ipc::encode_name_carbonphp("7:127.0.0.1:4711"), "7:127_0_0_1:4711");
/// assert_eq!(ws_ipc::encode_name_carbonphp("a.b@c.org"), "a_b@c_org");
/// ```
pub fn encode_name_carbonphp(id: &str) -> String {
    encode(id, |byte, name| match byte {
        b'/' | b':' => name.push(':'),
        b'.' => name.push('_'),
        b'@' | b'+' | b',' => name.push(char::from(byte)),
        _ => {
            let _never_fails = write!(name, "%{byte:02X}");
        }
    })
}

fn encode(id: &str, other: impl Fn(u8, &mut String)) -> String {
    if id.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::new();
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            _ => other(byte, &mut name),
        }
        if name.len() > MAX_ENCODED_SIZE {
            return hash(id);
        }
    }
    name
}

fn hash(id: &str) -> String {
    let mut name = "sha256=".to_owned();
    for byte in Sha256::digest(id) {
        let _never_fails = write!(name, "{byte:02x}");
    }
    name
}

/// Checks a name before anything is made under it.
pub(super) fn check_name(name: &str) -> Result<(), FifoError> {
    let valid = name.len() <= MAX_NAME_SIZE
        && name.len() > SUFFIX.len()
        && name.ends_with(SUFFIX)
        && !name.starts_with('.')
        && !name.contains(['/', '\0']);
    if valid {
        Ok(())
    } else {
        Err(FifoError::InvalidName {
            name: name.to_owned(),
        })
    }
}

/// What a FIFO's name ends in; of nothing else are remains of a former run removed.
pub(super) const SUFFIX: &str = ".fifo";

const MAX_ENCODED_SIZE: usize = 150;

/// Leaves room for `.lost-` and a time within the 255 bytes of a file name.
const MAX_NAME_SIZE: usize = 230;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t42_names_of_hostile_ids_are_plain_and_differ() {
        let long = "x".repeat(10 * 1024);
        let ids = [
            "../../x", "*", "[4]*", "", ".", "..", "\0", "\n", &long, "4", "42", "420", "Ab", "aB",
            "\u{fffd}", "/", "%", "%2F", "é", "e\u{301}", "sha256=", "-rf", "~",
        ];
        let names: Vec<_> = ids.iter().map(|id| encode_name(id)).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            check_name(&format!("{name}{SUFFIX}")).unwrap();
        }
    }

    #[test]
    fn t42_id_over_150_encoded_bytes_becomes_a_hash() {
        assert_eq!(encode_name(&"x".repeat(150)), "x".repeat(150));
        let hashed = encode_name(&"x".repeat(151));
        assert!(hashed.starts_with("sha256=") && hashed.len() == 7 + 64);
        assert_eq!(encode_name(&"/".repeat(50)).len(), 150);
        assert_eq!(encode_name(&"/".repeat(51)).len(), 7 + 64);
    }

    #[test]
    fn names_that_leave_or_hide_are_refused() {
        let long = "x".repeat(230);
        for name in [
            "", ".", "..", "a", ".fifo", ".a.fifo", "a/b.fifo", "/a.fifo", "a\0.fifo", "a.fifo ",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&format!("{long}.fifo")).is_err());
        check_name("7:::1:4711.fifo").unwrap();
    }

    proptest! {
        #[test]
        fn prop_t42_encoding_is_injective(left in id(), right in id()) {
            prop_assert_eq!(left == right, encode_name(&left) == encode_name(&right));
        }

        #[test]
        fn prop_t42_short_names_decode_to_their_id(id in id()) {
            let name = encode_name(&id);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-%=".contains(&b)));
            prop_assert!(name.len() <= MAX_ENCODED_SIZE);
            if !name.contains('=') && !id.is_empty() {
                prop_assert_eq!(decode(&name), id.into_bytes());
            }
        }

        #[test]
        fn prop_t42_carbonphp_names_stay_inside(id in id()) {
            let name = encode_name_carbonphp(&id) + SUFFIX;
            prop_assert!(check_name(&name).is_ok());
        }
    }

    fn id() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a%/.2F]{0,4}",
            ".{0,60}",
            "[ab/]{140,160}",
            any::<String>()
        ]
    }

    fn decode(name: &str) -> Vec<u8> {
        let mut parts = name.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }
}
