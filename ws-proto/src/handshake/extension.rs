//! What a client offers in `Sec-WebSocket-Extensions`.

use super::field::{is_token, is_token_byte};

/// An extension that the client offers, with its parameters in their order
/// ([RFC 6455 §9.1](https://www.rfc-editor.org/rfc/rfc6455#section-9.1)).
///
/// Offers that nobody takes up are declined by silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionOffer {
    name: String,
    parameters: Vec<(String, Option<String>)>,
}

/// A value of `Sec-WebSocket-Extensions` does not follow the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed extension header")]
pub struct InvalidExtensions;

impl ExtensionOffer {
    /// Reads the value of a `Sec-WebSocket-Extensions` header, an offer's or a response's.
    ///
    /// # Errors
    ///
    /// [`InvalidExtensions`] if it does not follow the grammar.
    pub fn parse(value: &str) -> Result<Vec<Self>, InvalidExtensions> {
        let mut offers = Vec::new();
        parse(value.as_bytes(), &mut offers)?;
        Ok(offers)
    }

    /// Returns the name, such as `permessage-deflate`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the parameters: names, and values where there are some.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }
}

/// Appends the offers of one header line to `offers`.
pub(super) fn parse(
    value: &[u8],
    offers: &mut Vec<ExtensionOffer>,
) -> Result<(), InvalidExtensions> {
    let mut cursor = Cursor { rest: value };
    loop {
        while cursor.accept(b',') {}
        if cursor.rest.is_empty() {
            return Ok(());
        }
        let mut offer = ExtensionOffer {
            name: cursor.token().ok_or(InvalidExtensions)?,
            parameters: Vec::new(),
        };
        while cursor.accept(b';') {
            let name = cursor.token().ok_or(InvalidExtensions)?;
            let value = if cursor.accept(b'=') {
                Some(cursor.value().ok_or(InvalidExtensions)?)
            } else {
                None
            };
            offer.parameters.push((name, value));
        }
        offers.push(offer);
        if !cursor.rest.is_empty() && !cursor.accept(b',') {
            return Err(InvalidExtensions);
        }
    }
}

/// A header value that is read from the left; white space between its parts is skipped.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
            self.skip_space();
        }
        found
    }

    fn token(&mut self) -> Option<String> {
        self.skip_space();
        let len = self
            .rest
            .iter()
            .take_while(|&&byte| is_token_byte(byte))
            .count();
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.skip_space();
        // Tokens are ASCII.
        (len > 0).then(|| String::from_utf8_lossy(token).into_owned())
    }

    /// A token, or a quoted string that holds one.
    fn value(&mut self) -> Option<String> {
        if self.rest.first() != Some(&b'"') {
            return self.token();
        }
        let mut value = Vec::new();
        let mut bytes = self.rest[1..].iter();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => value.push(*bytes.next()?),
                &byte => value.push(byte),
            }
        }
        self.rest = bytes.as_slice();
        self.skip_space();
        // RFC 6455 §9.1: after unquoting, the value must conform to the token grammar.
        is_token(&value).then(|| String::from_utf8_lossy(&value).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_keep_their_order_and_parameters() {
        let offers = ExtensionOffer::parse(
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, , \
             x-other;a = \"b\\c\"",
        )
        .unwrap();
        assert_eq!(offers.len(), 2);
        assert_eq!(offers[0].name(), "permessage-deflate");
        let parameters: Vec<_> = offers[0].parameters().collect();
        let expected = [
            ("client_max_window_bits", None),
            ("server_max_window_bits", Some("10")),
        ];
        assert_eq!(parameters, expected);
        assert_eq!(offers[1].parameters().next(), Some(("a", Some("bc"))));
    }

    #[test]
    fn broken_grammar_is_refused() {
        for value in [
            "a;",
            "a;b=",
            "a b",
            ";",
            "a;b=\"",
            "a;b=\"x y\"",
            "a;b=\"\\",
            "a=b",
            "é",
        ] {
            assert_eq!(
                ExtensionOffer::parse(value),
                Err(InvalidExtensions),
                "{value}"
            );
        }
        assert_eq!(ExtensionOffer::parse(""), Ok(vec![]));
    }
}
