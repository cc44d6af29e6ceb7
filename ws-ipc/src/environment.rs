//! The variables of a callback, checked before they can reach a process.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// The variables a callback is given: CGI/1.1's, `HTTP_*` and the configured ones.
///
/// It starts empty, keeps the order in which variables were set, and holds only what may become
/// the environment of a process or the head of an SCGI request: no name that a shell or loader
/// could misread, no NUL, never more than [`Environment::MAX_SIZE`] bytes.
///
/// # Examples
///
/// ```
/// use ws_ipc::Environment;
///
/// let mut environment = Environment::new();
/// environment.set("GATEWAY_INTERFACE", "CGI/1.1")?;
/// environment.header("Accept-Language", "de")?;
/// environment.header("Proxy", "http://evil.example/")?; // dropped: httpoxy
/// assert_eq!(environment.get("HTTP_ACCEPT_LANGUAGE"), Some(&b"de"[..]));
/// assert_eq!(environment.iter().count(), 2);
/// # Ok::<(), ws_ipc::EnvironmentError>(())
/// ```
///
/// It is kept with each connection, so it is packed: two blocks of memory, however many variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Names and values, one after another.
    text: Vec<u8>,
    /// Where they end.
    ends: Vec<Ends>,
}

/// Where a variable's name and its value end in the text. `MAX_SIZE` fits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    name: u32,
    value: u32,
}

impl Environment {
    /// The largest environment in bytes, counted as `NAME=VALUE` and a NUL each: 64 KiB.
    ///
    /// Linux takes 128 KiB in one variable and a quarter of the stack's limit in all; this leaves
    /// room for both, for every kernel, and bounds what a request can make the server hold.
    pub const MAX_SIZE: usize = 64 * 1024;

    /// The largest number of variables.
    pub const MAX_COUNT: usize = 1024;

    /// Makes an environment without variables.
    pub const fn new() -> Self {
        Self {
            text: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Makes room for names and values of so many bytes, within its limits.
    pub(crate) fn reserve(&mut self, size: usize) {
        let size = size.min(Self::MAX_SIZE);
        self.text.reserve(size);
        // A variable of the usual kind takes as much.
        self.ends.reserve(size / 24);
    }

    /// Takes all variables away and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Returns the bytes that [`MAX_SIZE`](Self::MAX_SIZE) bounds.
    pub const fn size(&self) -> usize {
        self.text.len() + 2 * self.ends.len()
    }

    /// Returns whether there is no variable.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Gives back memory that was reserved for more variables.
    pub fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name.as_bytes())
            .map(|at| &self.text[self.value_range(at)])
    }

    /// Iterates over the variables in the order in which they were first set.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        (0..self.ends.len()).map(|at| {
            let name = std::str::from_utf8(&self.text[self.name_range(at)]);
            let name = name.expect("names are checked: they are ASCII");
            (name, &self.text[self.value_range(at)])
        })
    }

    /// Returns the variables as a process takes them.
    pub fn to_os(&self) -> Vec<(OsString, OsString)> {
        self.iter()
            .map(|(name, value)| (name.into(), OsStr::from_bytes(value).into()))
            .collect()
    }

    /// Sets a variable of the server's own making; a former value is replaced.
    ///
    /// The name is of the form `[A-Z_][A-Z0-9_]*`; the value, which may come from a peer, holds no
    /// control character.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if name or value are not of that form or a limit is passed. The
    /// environment then is as it was.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EnvironmentError> {
        check_name(name.as_bytes(), |byte| {
            byte.is_ascii_uppercase() || byte == b'_'
        })?;
        self.put_printable(name, value.as_ref())
    }

    /// Sets a variable as the operator configured it; a former value is replaced.
    ///
    /// Configuration may do more than a peer: lower-case names (`no_proxy`) and values of several
    /// lines (a key in PEM) pass. `HTTP_PROXY` does not: with it a peer's header and the
    /// configuration could not be told apart.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if the name is not of the form `[A-Za-z_][A-Za-z0-9_]*`, the value
    /// holds a NUL, or a limit is passed. The environment then is as it was.
    pub fn set_configured(
        &mut self,
        name: &str,
        value: impl AsRef<[u8]>,
    ) -> Result<(), EnvironmentError> {
        check_configured(name.as_bytes(), value.as_ref())?;
        self.put(name, value.as_ref(), Self::MAX_SIZE)
    }

    /// Adds a variable of a request that was encoded from an environment, which may have been full
    /// before `CONTENT_LENGTH` was added; tells whether it did, and did not have it yet.
    pub(crate) fn add_received(
        &mut self,
        name: &[u8],
        value: &[u8],
    ) -> Result<bool, EnvironmentError> {
        if self.position(name).is_some() {
            return Ok(false);
        }
        check_configured(name, value)?;
        self.put_at(None, name, value, Self::MAX_SIZE + 64)?;
        Ok(true)
    }

    /// Adds a request header as `HTTP_*`.
    ///
    /// Header names are upper-cased and dashes become underscores. Dropped without an error are
    ///
    /// - `Proxy`, which would set what many HTTP libraries take for their proxy (httpoxy);
    /// - names with an underscore, which would collide with their twin with a dash;
    /// - `Content-Length` and `Content-Type`, which describe the handshake's absent body and which
    ///   [RFC 3875 §4.1.18](https://www.rfc-editor.org/rfc/rfc3875#section-4.1.18) keeps out;
    /// - names with anything but letters, digits and dashes.
    ///
    /// A repeated header is joined to its former value by `", "`, a repeated `Cookie` by `"; "`.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if the value holds a control character or a limit is passed. The
    /// environment then is as it was.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), EnvironmentError> {
        let Some(name) = header_variable(name) else {
            return Ok(());
        };
        let value = value.as_ref();
        let Some(former) = self.get(&name) else {
            return self.put_printable(&name, value);
        };
        let separator: &[u8] = if name == "HTTP_COOKIE" { b"; " } else { b", " };
        let joined = [former, separator, value].concat();
        self.put_printable(&name, &joined)
    }

    /// Sets all variables of another environment.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if a limit is passed. Some variables may then have been set.
    pub fn extend(&mut self, other: &Self) -> Result<(), EnvironmentError> {
        other
            .iter()
            .try_for_each(|(name, value)| self.put(name, value, Self::MAX_SIZE))
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        (0..self.ends.len()).find(|&at| is_same(&self.text[self.name_range(at)], name))
    }

    fn name_range(&self, at: usize) -> Range<usize> {
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.ends[before].value);
        start as usize..self.ends[at].name as usize
    }

    fn value_range(&self, at: usize) -> Range<usize> {
        self.ends[at].name as usize..self.ends[at].value as usize
    }

    fn replace(&mut self, at: usize, value: &[u8]) {
        let former = self.value_range(at);
        let (start, former_end) = (former.start, former.end);
        self.text.splice(former, value.iter().copied());
        let move_end =
            |end: &mut u32| *end = offset(*end as usize - former_end + start + value.len());
        move_end(&mut self.ends[at].value);
        for ends in &mut self.ends[at + 1..] {
            move_end(&mut ends.name);
            move_end(&mut ends.value);
        }
    }

    fn put_printable(&mut self, name: &str, value: &[u8]) -> Result<(), EnvironmentError> {
        match value.iter().find(|byte| byte.is_ascii_control()) {
            Some(&byte) => Err(EnvironmentError::InvalidValue {
                name: name.into(),
                byte,
            }),
            None => self.put(name, value, Self::MAX_SIZE),
        }
    }

    fn put(&mut self, name: &str, value: &[u8], max: usize) -> Result<(), EnvironmentError> {
        let name = name.as_bytes();
        self.put_at(self.position(name), name, value, max)
    }

    /// Puts a variable in the place of a former one, or at the end.
    fn put_at(
        &mut self,
        slot: Option<usize>,
        name: &[u8],
        value: &[u8],
        max: usize,
    ) -> Result<(), EnvironmentError> {
        if name == b"HTTP_PROXY" {
            return Err(EnvironmentError::InvalidName { name: lossy(name) });
        }
        let former = slot.map_or(0, |at| entry_size(name, &self.text[self.value_range(at)]));
        let size = self.size() - former + entry_size(name, value);
        if size > max {
            return Err(EnvironmentError::TooLarge { size, max });
        }
        match slot {
            Some(at) => self.replace(at, value),
            None if self.ends.len() == Self::MAX_COUNT => {
                return Err(EnvironmentError::TooMany {
                    max: Self::MAX_COUNT,
                });
            }
            None => {
                self.text.extend_from_slice(name);
                let name = offset(self.text.len());
                self.text.extend_from_slice(value);
                let value = offset(self.text.len());
                self.ends.push(Ends { name, value });
            }
        }
        Ok(())
    }
}

/// Shows names and the length of values: cookies and credentials are among them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.iter().map(|(name, value)| (name, value.len()));
        f.debug_map().entries(lengths).finish()
    }
}

/// Why a variable was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// The name is no name of a variable, or one that is never set.
    #[error("{name:?} cannot be the name of a variable")]
    InvalidName {
        /// The name as it was given.
        name: String,
    },
    /// The value holds a byte that is not allowed; from a peer that is a bad request.
    #[error("value of {name} holds the byte {byte:#04x}")]
    InvalidValue {
        /// The variable.
        name: String,
        /// The first byte that is not allowed.
        byte: u8,
    },
    /// All variables together are too large.
    #[error("variables take {size} bytes, the most is {max}")]
    TooLarge {
        /// The size that was asked for.
        size: usize,
        /// The limit, [`Environment::MAX_SIZE`].
        max: usize,
    },
    /// There are too many variables.
    #[error("more than {max} variables")]
    TooMany {
        /// The limit, [`Environment::MAX_COUNT`].
        max: usize,
    },
}

/// Checks a variable that the operator may configure.
fn check_configured(name: &[u8], value: &[u8]) -> Result<(), EnvironmentError> {
    check_name(name, |byte| byte.is_ascii_alphabetic() || byte == b'_')?;
    if value.contains(&0) {
        return Err(EnvironmentError::InvalidValue {
            name: lossy(name),
            byte: 0,
        });
    }
    Ok(())
}

fn check_name(name: &[u8], allowed: impl Fn(u8) -> bool) -> Result<(), EnvironmentError> {
    let valid = name.first().is_some_and(|&byte| allowed(byte))
        && name
            .iter()
            .all(|&byte| allowed(byte) || byte.is_ascii_digit());
    if valid {
        Ok(())
    } else {
        Err(EnvironmentError::InvalidName { name: lossy(name) })
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn header_variable(name: &str) -> Option<String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let dropped = ["proxy", "content-length", "content-type"];
    if name.is_empty()
        || !name.bytes().all(valid)
        || dropped.iter().any(|known| name.eq_ignore_ascii_case(known))
    {
        return None;
    }
    Some(format!(
        "HTTP_{}",
        name.to_ascii_uppercase().replace('-', "_")
    ))
}

/// Names are short, and mostly differ in length: a loop of our own is no slower than the C library's,
/// and spares a child of the fork server a page of that.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one == other)
}

/// An offset in the text, which is bounded.
fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("an environment is smaller than 4 GiB")
}

const fn entry_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(environment: &Environment) -> Vec<&str> {
        environment.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn t50_proxy_header_sets_no_variable_in_any_case() {
        let mut environment = Environment::new();
        for name in ["Proxy", "proxy", "PROXY", "pRoXy"] {
            environment.header(name, "http://evil").unwrap();
        }
        assert!(environment.is_empty());
        assert!(environment.set("HTTP_PROXY", "http://evil").is_err());
        assert!(
            environment
                .set_configured("HTTP_PROXY", "http://evil")
                .is_err()
        );
    }

    #[test]
    fn t50_underscore_twin_is_dropped_and_the_dashed_name_kept() {
        let mut environment = Environment::new();
        environment.header("X_Real_Ip", "6.6.6.6").unwrap();
        environment.header("X-Real-Ip", "192.0.2.1").unwrap();
        environment.header("X-Real_Ip", "6.6.6.6").unwrap();
        assert_eq!(environment.get("HTTP_X_REAL_IP"), Some(&b"192.0.2.1"[..]));
        assert_eq!(names(&environment), ["HTTP_X_REAL_IP"]);
    }

    #[test]
    fn t50_headers_named_like_variables_stay_behind_their_prefix() {
        let mut environment = Environment::new();
        for name in [
            "PATH",
            "IFS",
            "LD-PRELOAD",
            "BASH-ENV",
            "LD_PRELOAD",
            "BASH_FUNC_x%%",
        ] {
            environment.header(name, "x").unwrap();
        }
        assert_eq!(
            names(&environment),
            ["HTTP_PATH", "HTTP_IFS", "HTTP_LD_PRELOAD", "HTTP_BASH_ENV"]
        );
    }

    #[test]
    fn t51_control_characters_in_values_are_refused() {
        for byte in (0..0x20).chain([0x7f]) {
            let mut environment = Environment::new();
            let value = [b'a', byte, b'b'];
            let name = "HTTP_X".to_owned();
            let refused = Err(EnvironmentError::InvalidValue { name, byte });
            assert_eq!(environment.header("X", value), refused);
            assert_eq!(environment.set("HTTP_X", value), refused);
            assert!(environment.is_empty());
        }
    }

    #[test]
    fn t51_name_with_equals_sign_is_refused() {
        let mut environment = Environment::new();
        for name in ["", "A=B", "=A", "1A", "a", "A-B", "A B", "Ä", "A\0"] {
            assert!(environment.set(name, "x").is_err(), "{name:?}");
        }
        for name in ["", "A=B", "1A", "A-B", "BASH_FUNC_x%%", "A\0"] {
            assert!(environment.set_configured(name, "x").is_err(), "{name:?}");
        }
        environment.set("_A1", "x").unwrap();
        environment.set_configured("no_proxy", "a\nb\t").unwrap();
        assert!(environment.set_configured("KEY", "a\0b").is_err());
        assert_eq!(names(&environment), ["_A1", "no_proxy"]);
    }

    #[test]
    fn t51_environment_over_64_kib_is_refused() {
        let mut environment = Environment::new();
        // "A=" and the NUL
        environment
            .set("A", vec![b'x'; Environment::MAX_SIZE - 3])
            .unwrap();
        assert_eq!(environment.size(), Environment::MAX_SIZE);
        let refused = environment.header("B", "");
        let expected = EnvironmentError::TooLarge {
            size: Environment::MAX_SIZE + 8,
            max: 64 * 1024,
        };
        assert_eq!(refused, Err(expected));
        environment.set("A", "").unwrap();
        environment.header("B", "").unwrap();
        assert_eq!(environment.size(), 3 + 8);
    }

    #[test]
    fn variables_beyond_the_count_are_refused() {
        let mut environment = Environment::new();
        for number in 0..Environment::MAX_COUNT {
            environment.set(&format!("A{number}"), "").unwrap();
        }
        assert_eq!(
            environment.set("B", ""),
            Err(EnvironmentError::TooMany { max: 1024 })
        );
        environment.set("A7", "still replaced").unwrap();
    }

    #[test]
    fn repeated_headers_are_joined() {
        let mut environment = Environment::new();
        environment.header("Cookie", "a=1").unwrap();
        environment.header("Accept", "x").unwrap();
        environment.header("cookie", "b=2").unwrap();
        environment.header("accept", "y").unwrap();
        assert_eq!(environment.get("HTTP_COOKIE"), Some(&b"a=1; b=2"[..]));
        assert_eq!(environment.get("HTTP_ACCEPT"), Some(&b"x, y"[..]));
    }

    #[test]
    fn debug_shows_no_value() {
        let mut environment = Environment::new();
        environment.header("Cookie", "secret").unwrap();
        assert_eq!(format!("{environment:?}"), r#"{"HTTP_COOKIE": 6}"#);
    }

    proptest! {
        #[test]
        fn prop_the_packed_environment_is_the_naive_one(
            variables in prop::collection::vec(("[A-D]{1,2}", prop::collection::vec(1u8.., 0..6)), 0..40)
        ) {
            let mut environment = Environment::new();
            let mut naive: Vec<(String, Vec<u8>)> = Vec::new();
            for (name, value) in variables {
                environment.set_configured(&name, &value).unwrap();
                match naive.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = value,
                    None => naive.push((name, value)),
                }
                let expected = naive.iter().map(|(name, value)| (name.as_str(), &value[..]));
                prop_assert!(environment.iter().eq(expected));
            }
            let mut extended = Environment::new();
            extended.set("A", "former").unwrap();
            extended.extend(&environment).unwrap();
            for (name, value) in environment.iter() {
                prop_assert_eq!(extended.get(name), Some(value));
            }
        }
    }

    proptest! {
        #[test]
        fn prop_headers_never_break_the_rules(
            headers in prop::collection::vec((".{0,12}", prop::collection::vec(any::<u8>(), 0..20)), 0..20)
        ) {
            let mut environment = Environment::new();
            for (name, value) in &headers {
                let _refused = environment.header(name, value);
            }
            let mut size = 0;
            for (name, value) in environment.iter() {
                prop_assert!(name.starts_with("HTTP_") && name != "HTTP_PROXY");
                prop_assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
                prop_assert!(!value.iter().any(u8::is_ascii_control));
                size += name.len() + value.len() + 2;
            }
            prop_assert_eq!(size, environment.size());
        }
    }
}
