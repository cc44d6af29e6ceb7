//! What counts as a URI among messages and records, and its parts.

/// The longest message that is read as a URI, in bytes.
pub(crate) const MAX_URI_SIZE: usize = 8 * 1024;

/// An absolute path with an optional query: what a text message or a FIFO record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uri<'a> {
    raw: &'a str,
}

impl<'a> Uri<'a> {
    /// Reads a message as a URI, if it is one.
    ///
    /// It begins with one slash (two would name an authority), is at most 8 KiB long and holds no
    /// control byte, neither as it is nor after percent-decoding.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let raw = std::str::from_utf8(message).ok()?;
        let is_path = raw.starts_with('/') && !raw.starts_with("//");
        if !is_path || raw.len() > MAX_URI_SIZE {
            return None;
        }
        let is_control = |byte: u8| byte < 0x20 || byte == 0x7f;
        let is_clean =
            !raw.bytes().any(is_control) && !percent_decode(raw).iter().copied().any(is_control);
        is_clean.then_some(Self { raw })
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &'a str {
        self.raw
    }

    /// The path, percent-decoded (`PATH_INFO`, RFC 3875 §4.1.5).
    pub(crate) fn path(&self) -> Vec<u8> {
        percent_decode(self.split().0)
    }

    /// The query as it was written, without the question mark (`QUERY_STRING`).
    pub(crate) fn query(&self) -> &'a str {
        self.split().1
    }

    fn split(&self) -> (&'a str, &'a str) {
        self.raw.split_once('?').unwrap_or((self.raw, ""))
    }
}

/// Decodes `%XX`; a `%` that is not followed by two hexadecimal digits stands for itself.
fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = || {
            let digit = |offset| (*bytes.get(at + offset)? as char).to_digit(16);
            u8::try_from(digit(1)? * 16 + digit(2)?).ok()
        };
        match (byte == b'%').then(pair).flatten() {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t53_what_is_not_an_absolute_path_is_not_a_uri() {
        for message in [
            "",
            "ping",
            "http://evil/",
            "//evil",
            "/a\nX",
            "/a\0",
            "/a%0aX",
            "/a%00",
            "/\x7f",
            "{}",
        ] {
            assert_eq!(Uri::parse(message.as_bytes()), None, "{message:?}");
        }
        assert_eq!(Uri::parse(b"/\xff"), None);
    }

    #[test]
    fn t52_what_is_one_keeps_its_bytes() {
        for message in [
            "/--help",
            "/$(id)",
            "/;id",
            "/a%2f..",
            "/echo/<b> x",
            "/50%",
            "/a?b=%20&c#d",
        ] {
            assert_eq!(Uri::parse(message.as_bytes()).unwrap().as_str(), message);
        }
    }

    #[test]
    fn path_is_decoded_and_query_is_not() {
        let uri = Uri::parse(b"/a%20b/%C3%A9?q=1%202").unwrap();
        assert_eq!(uri.path(), "/a b/é".as_bytes());
        assert_eq!(uri.query(), "q=1%202");
    }

    #[test]
    fn inv20_a_uri_of_8_kib_is_one_and_a_longer_message_is_not() {
        let longest = format!("/{}", "a".repeat(MAX_URI_SIZE - 1));
        assert!(Uri::parse(longest.as_bytes()).is_some());
        assert!(Uri::parse(format!("{longest}a").as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn prop_a_uri_never_holds_a_control_byte(message in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(uri) = Uri::parse(&message) {
                prop_assert!(uri.path().iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
                prop_assert_eq!(uri.as_str().as_bytes(), &message[..]);
            }
        }
    }
}
