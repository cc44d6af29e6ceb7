//! What PHP's `serialize` writes, and what its session handlers make of it.
//!
//! The reader is strict: a text is understood whole or not at all, so one that was cut off or
//! written over in part is not taken for another. It is bounded by the text itself: nothing is
//! allocated for a length that is only announced, and nesting has an end.

use std::ops::Range;

use crate::config::PhpHandler;

/// How deep values may lie in one another.
const MAX_DEPTH: usize = 128;

/// Why a text is not what PHP writes; where, and what is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {problem}")]
pub(crate) struct InvalidPhp {
    pub(crate) at: usize,
    pub(crate) problem: &'static str,
}

/// Variables or a value that PHP wrote.
#[derive(Clone, Debug)]
pub(crate) struct PhpValues<'t> {
    text: &'t [u8],
    nodes: Vec<Node>,
    root: usize,
}

/// What is found of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'t> {
    Null,
    Boolean(bool),
    Integer(i64),
    Text(&'t [u8]),
    /// A number with a fraction, an array, an object: nothing that names a user.
    Other,
}

#[derive(Clone, Debug)]
enum Node {
    Null,
    Boolean(bool),
    Integer(i64),
    Text(Range<usize>),
    /// An array or an object.
    Table(Vec<(Key, usize)>),
    /// A value that nothing is read out of.
    Opaque,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Integer(i64),
    Text(Range<usize>),
}

impl<'t> PhpValues<'t> {
    /// Reads the variables of a session.
    ///
    /// # Errors
    ///
    /// [`InvalidPhp`] unless the whole text is as that handler writes it.
    pub(crate) fn session(text: &'t [u8], handler: PhpHandler) -> Result<Self, InvalidPhp> {
        let mut reader = Reader::new(text);
        let variables = match handler {
            // PHP writes nothing for a session without variables.
            _ if text.is_empty() => Vec::new(),
            PhpHandler::Php => reader.variables()?,
            PhpHandler::PhpBinary => reader.binary_variables()?,
            PhpHandler::PhpSerialize => {
                let values = Self::value(text)?;
                return match values.nodes[values.root] {
                    Node::Table(_) => Ok(values),
                    _ => Err(reader.fault("the session is no array")),
                };
            }
        };
        let root = reader.nodes.len();
        reader.nodes.push(Node::Table(variables));
        Ok(reader.finish(root))
    }

    /// Reads one value.
    ///
    /// # Errors
    ///
    /// [`InvalidPhp`] unless the whole text is one.
    pub(crate) fn value(text: &'t [u8]) -> Result<Self, InvalidPhp> {
        let mut reader = Reader::new(text);
        let root = reader.value(0)?;
        match reader.at == text.len() {
            true => Ok(reader.finish(root)),
            false => Err(reader.fault("something follows the value")),
        }
    }

    /// Returns what the whole of it is.
    pub(crate) fn scalar(&self) -> Scalar<'t> {
        self.scalar_at(self.root)
    }

    /// Looks up a variable by its name; or, along the dots in a path, what lies in it.
    pub(crate) fn get(&self, path: &str) -> Option<Scalar<'t>> {
        let found = self.child(self.root, path).or_else(|| {
            path.split('.')
                .try_fold(self.root, |node, name| self.child(node, name))
        });
        found.map(|node| self.scalar_at(node))
    }

    /// The last of that name, as PHP overwrites earlier ones.
    fn child(&self, node: usize, name: &str) -> Option<usize> {
        let Node::Table(entries) = &self.nodes[node] else {
            return None;
        };
        let is_meant = |key: &Key| match key {
            Key::Integer(number) => number.to_string() == name,
            // PHP writes a NUL, the class and another NUL before what is private to it.
            Key::Text(range) => {
                let key = &self.text[range.clone()];
                let key = match (key.first(), key.iter().rposition(|byte| *byte == 0)) {
                    (Some(0), Some(last)) => &key[last + 1..],
                    _ => key,
                };
                key == name.as_bytes()
            }
        };
        let found = entries.iter().rev().find(|(key, _)| is_meant(key));
        found.map(|(_, node)| *node)
    }

    fn scalar_at(&self, node: usize) -> Scalar<'t> {
        match &self.nodes[node] {
            Node::Null => Scalar::Null,
            Node::Boolean(value) => Scalar::Boolean(*value),
            Node::Integer(value) => Scalar::Integer(*value),
            Node::Text(range) => Scalar::Text(&self.text[range.clone()]),
            Node::Table(_) | Node::Opaque => Scalar::Other,
        }
    }
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    nodes: Vec<Node>,
    /// What the numbers of references mean: the values in their order, 1 the first.
    slots: Vec<usize>,
    /// Whether a class wrote something of its own, in which values may have numbers, too.
    has_lost_count: bool,
}

impl<'t> Reader<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            at: 0,
            nodes: Vec::new(),
            slots: Vec::new(),
            has_lost_count: false,
        }
    }

    fn finish(self, root: usize) -> PhpValues<'t> {
        PhpValues {
            text: self.text,
            nodes: self.nodes,
            root,
        }
    }

    fn fault(&self, problem: &'static str) -> InvalidPhp {
        InvalidPhp {
            at: self.at,
            problem,
        }
    }

    /// The variables as the handler `php` writes them.
    fn variables(&mut self) -> Result<Vec<(Key, usize)>, InvalidPhp> {
        let mut variables = Vec::new();
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            let length = rest.iter().position(|byte| *byte == b'|');
            let length = length.ok_or_else(|| self.fault("a name without its value"))?;
            let name = self.at..self.at + length;
            self.at = name.end + 1;
            // PHP up to 7.0 marked a variable that was not set, and wrote no value behind it.
            let may_be_unset = self.text[name.clone()].starts_with(b"!");
            if may_be_unset && !self.is_at_value() {
                continue;
            }
            let value = self.value(0)?;
            variables.push((Key::Text(name), value));
        }
        Ok(variables)
    }

    fn is_at_value(&self) -> bool {
        match self.text.get(self.at..) {
            Some([b'N', b';', ..]) => true,
            Some([kind, b':', ..]) => b"bidsaOCErR".contains(kind),
            _ => false,
        }
    }

    /// The variables as the handler `php_binary` writes them.
    fn binary_variables(&mut self) -> Result<Vec<(Key, usize)>, InvalidPhp> {
        const UNSET: u8 = 0x80;
        let mut variables = Vec::new();
        while let Some(&head) = self.text.get(self.at) {
            let start = self.at + 1;
            let name = start..start + usize::from(head & !UNSET);
            if name.end > self.text.len() {
                return Err(self.fault("a name that is cut off"));
            }
            self.at = name.end;
            if head & UNSET == 0 {
                let value = self.value(0)?;
                variables.push((Key::Text(name), value));
            }
        }
        Ok(variables)
    }

    /// One value. What lies in it is read before it has a place among the nodes, but it has its
    /// number before them.
    fn value(&mut self, depth: usize) -> Result<usize, InvalidPhp> {
        if depth > MAX_DEPTH {
            return Err(self.fault("values lie too deep in one another"));
        }
        let kind = *self
            .text
            .get(self.at)
            .ok_or_else(|| self.fault("a value is missing"))?;
        if kind == b'R' {
            // A reference is the same value, and has no number of its own.
            return self.reference();
        }
        let slot = self.slots.len();
        let node = self.nodes.len();
        self.nodes.push(Node::Opaque);
        self.slots.push(node);
        if kind == b'r' {
            let target = self.reference()?;
            self.slots[slot] = target;
            return Ok(target);
        }
        self.nodes[node] = match kind {
            b'N' => {
                self.expect(b"N;")?;
                Node::Null
            }
            b'b' => match self.number(b"b:", b';')? {
                0 => Node::Boolean(false),
                1 => Node::Boolean(true),
                _ => return Err(self.fault("a boolean is 0 or 1")),
            },
            b'i' => Node::Integer(self.number(b"i:", b';')?),
            b'd' => self.float()?,
            b's' => {
                let text = self.counted(b"s:")?;
                self.expect(b";")?;
                Node::Text(text)
            }
            b'a' => {
                let count = self.length(b"a:", b':')?;
                Node::Table(self.entries(count, depth)?)
            }
            b'O' => {
                self.counted(b"O:")?;
                let count = self.length(b":", b':')?;
                Node::Table(self.entries(count, depth)?)
            }
            b'E' => {
                self.counted(b"E:")?;
                self.expect(b";")?;
                Node::Opaque
            }
            b'C' => {
                self.counted(b"C:")?;
                let length = self.length(b":", b':')?;
                self.expect(b"{")?;
                self.skip(length)?;
                self.expect(b"}")?;
                self.has_lost_count = true;
                Node::Opaque
            }
            _ => return Err(self.fault("no value begins like this")),
        };
        Ok(node)
    }

    /// `R:NUMBER;` or `r:NUMBER;`: a value that stands before.
    fn reference(&mut self) -> Result<usize, InvalidPhp> {
        let at = self.at;
        self.at += 1;
        let number = self.length(b":", b';')?;
        if self.has_lost_count {
            self.nodes.push(Node::Opaque);
            return Ok(self.nodes.len() - 1);
        }
        let target = number
            .checked_sub(1)
            .and_then(|index| self.slots.get(index));
        target.copied().ok_or(InvalidPhp {
            at,
            problem: "a reference to no value",
        })
    }

    /// The entries of an array or an object in their braces.
    fn entries(&mut self, count: usize, depth: usize) -> Result<Vec<(Key, usize)>, InvalidPhp> {
        self.expect(b"{")?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let key = match self.text.get(self.at) {
                Some(b'i') => Key::Integer(self.number(b"i:", b';')?),
                Some(b's') => {
                    let text = self.counted(b"s:")?;
                    self.expect(b";")?;
                    Key::Text(text)
                }
                _ => return Err(self.fault("a key is an integer or a string")),
            };
            let value = self.value(depth + 1)?;
            entries.push((key, value));
        }
        self.expect(b"}")?;
        Ok(entries)
    }

    fn expect(&mut self, wanted: &[u8]) -> Result<(), InvalidPhp> {
        if !self.text[self.at..].starts_with(wanted) {
            return Err(self.fault("something else is due here"));
        }
        self.at += wanted.len();
        Ok(())
    }

    fn skip(&mut self, length: usize) -> Result<Range<usize>, InvalidPhp> {
        let start = self.at;
        let end = start.checked_add(length);
        let end = end.filter(|end| *end <= self.text.len());
        self.at = end.ok_or_else(|| self.fault("the text ends before its length"))?;
        Ok(start..self.at)
    }

    /// The text between here and the next `end`, which is not far.
    fn word(&mut self, end: u8) -> Result<&'t str, InvalidPhp> {
        const MAX_LENGTH: usize = 64;
        let text = self.text;
        let rest = &text[self.at..];
        let rest = &rest[..rest.len().min(MAX_LENGTH)];
        let length = rest.iter().position(|byte| *byte == end);
        let length = length.ok_or_else(|| self.fault("a number does not end"))?;
        let word = std::str::from_utf8(&rest[..length]);
        let word = word.map_err(|_| self.fault("no number"))?;
        self.at += length + 1;
        Ok(word)
    }

    fn number(&mut self, before: &[u8], end: u8) -> Result<i64, InvalidPhp> {
        self.expect(before)?;
        let fault = self.fault("no whole number of 64 bits");
        self.word(end)?.parse().map_err(|_| fault)
    }

    fn length(&mut self, before: &[u8], end: u8) -> Result<usize, InvalidPhp> {
        let fault = self.fault("no length");
        usize::try_from(self.number(before, end)?).map_err(|_| fault)
    }

    fn float(&mut self) -> Result<Node, InvalidPhp> {
        self.expect(b"d:")?;
        let fault = self.fault("no number");
        match self.word(b';')? {
            "INF" | "-INF" | "NAN" => Ok(Node::Opaque),
            word if word.parse::<f64>().is_ok() => Ok(Node::Opaque),
            _ => Err(fault),
        }
    }

    /// `LENGTH:"TEXT"`, with what stands before the length.
    fn counted(&mut self, before: &[u8]) -> Result<Range<usize>, InvalidPhp> {
        let length = self.length(before, b':')?;
        self.expect(b"\"")?;
        let text = self.skip(length)?;
        self.expect(b"\"")?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get<'t>(text: &'t str, path: &str) -> Option<Scalar<'t>> {
        let values = PhpValues::session(text.as_bytes(), PhpHandler::Php);
        values.unwrap().get(path)
    }

    #[test]
    fn variables_are_found_among_others() {
        let text = "lang|s:2:\"de\";id|i:7;flag|b:1;cart|a:2:{i:0;d:0.1;i:1;a:1:{s:1:\"x\";N;}}";
        assert_eq!(get(text, "id"), Some(Scalar::Integer(7)));
        assert_eq!(get(text, "lang"), Some(Scalar::Text(b"de")));
        assert_eq!(get(text, "flag"), Some(Scalar::Boolean(true)));
        assert_eq!(get(text, "cart"), Some(Scalar::Other));
        assert_eq!(get(text, "cart.0"), Some(Scalar::Other));
        assert_eq!(get(text, "cart.1.x"), Some(Scalar::Null));
        assert_eq!(get(text, "cart.1.x.y"), None);
        assert_eq!(get(text, "user"), None);
        assert_eq!(get("", "id"), None);
    }

    #[test]
    fn strings_hold_whatever_looks_like_something_else() {
        let text = "a|s:13:\"\";id|i:8;x|s:\";id|i:7;";
        assert_eq!(get(text, "id"), Some(Scalar::Integer(7)));
        let text = "a|s:3:\"\0\"|\";id|s:1:\"7\";";
        assert_eq!(get(text, "id"), Some(Scalar::Text(b"7")));
    }

    #[test]
    fn objects_show_what_is_private_to_them() {
        let text = "u|O:4:\"User\":2:{s:8:\"\0User\0id\";i:7;s:7:\"\0*\0name\";s:1:\"a\";}";
        assert_eq!(get(text, "u.id"), Some(Scalar::Integer(7)));
        assert_eq!(get(text, "u.name"), Some(Scalar::Text(b"a")));
    }

    #[test]
    fn references_are_what_they_refer_to() {
        let text = "a|a:2:{s:1:\"x\";i:7;s:1:\"y\";R:2;}id|R:2;o|r:1;z|i:9;w|R:4;";
        assert_eq!(get(text, "id"), Some(Scalar::Integer(7)));
        assert_eq!(get(text, "a.y"), Some(Scalar::Integer(7)));
        assert_eq!(get(text, "o.x"), Some(Scalar::Integer(7)));
        assert_eq!(get(text, "w"), Some(Scalar::Integer(9)));
        // One that lies in itself has no end, but a path has.
        let text = "a|a:1:{s:1:\"a\";R:1;}";
        assert_eq!(get(text, "a.a.a.a"), Some(Scalar::Other));
        // Behind what a class wrote itself, nobody knows what the numbers mean.
        let text = "c|C:1:\"C\":3:{abc}id|i:7;b|R:2;";
        assert_eq!(get(text, "b"), Some(Scalar::Other));
        assert_eq!(get(text, "id"), Some(Scalar::Integer(7)));
    }

    #[test]
    fn unset_variables_are_passed_over() {
        assert_eq!(get("!a|id|i:7;!b|", "id"), Some(Scalar::Integer(7)));
        assert_eq!(get("!a|i:8;id|i:7;", "!a"), Some(Scalar::Integer(8)));
        let text = b"\x81a\x02idi:7;";
        let values = PhpValues::session(text, PhpHandler::PhpBinary).unwrap();
        assert_eq!(values.get("id"), Some(Scalar::Integer(7)));
        assert_eq!(values.get("a"), None);
    }

    #[test]
    fn what_php_does_not_write_is_refused() {
        for text in [
            "id",
            "id|",
            "id|i:7",
            "id|i:7;x",
            "id|i:;",
            "id|i:7.0;",
            "id|i:99999999999999999999;",
            "id|b:2;",
            "id|d:x;",
            "id|s:2:\"a\";",
            "id|s:1:\"ab\";",
            "id|s:-1:\"\";",
            "id|s:18446744073709551615:\"\";",
            "id|a:1:{}",
            "id|a:0:{",
            "id|a:1:{N;i:7;}",
            "id|a:999999999:{i:0;i:7;}",
            "id|O:1:\"A\":1:{i:7;}",
            "id|R:1;",
            "id|R:0;",
            "id|X:1;",
            "id|C:1:\"A\":5:{abc}",
        ] {
            let end = PhpValues::session(text.as_bytes(), PhpHandler::Php);
            assert!(end.is_err(), "{text}");
        }
        let deep = format!("id|{}", "a:1:{i:0;".repeat(100_000));
        assert!(PhpValues::session(deep.as_bytes(), PhpHandler::Php).is_err());
        for text in ["i:7;", "a:0:{}x", "id|i:7;"] {
            let end = PhpValues::session(text.as_bytes(), PhpHandler::PhpSerialize);
            assert!(end.is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_that_is_cut_off_names_nobody_later_than_the_cut() {
        let text = "a|s:3:\"x|y\";b|a:1:{i:0;O:1:\"A\":1:{s:1:\"p\";d:1.5;}}id|i:7;";
        for end in 0..text.len() {
            if let Ok(values) = PhpValues::session(&text.as_bytes()[..end], PhpHandler::Php) {
                assert_eq!(values.get("id"), None, "{end}");
            }
        }
    }

    /// A value, as PHP has them.
    #[derive(Clone, Debug)]
    enum Model {
        Null,
        Boolean(bool),
        Integer(i64),
        Float(f64),
        Text(Vec<u8>),
        Array(Vec<(Result<i64, Vec<u8>>, Self)>),
    }

    impl Model {
        fn write(&self, out: &mut Vec<u8>) {
            let text = |text: &[u8], out: &mut Vec<u8>| {
                out.extend(format!("s:{}:\"", text.len()).bytes());
                out.extend(text);
                out.extend(b"\";");
            };
            match self {
                Self::Null => out.extend(b"N;"),
                Self::Boolean(value) => out.extend(format!("b:{};", u8::from(*value)).bytes()),
                Self::Integer(value) => out.extend(format!("i:{value};").bytes()),
                Self::Float(value) => out.extend(format!("d:{value:?};").bytes()),
                Self::Text(value) => text(value, out),
                Self::Array(entries) => {
                    out.extend(format!("a:{}:{{", entries.len()).bytes());
                    for (key, value) in entries {
                        match key {
                            Ok(number) => out.extend(format!("i:{number};").bytes()),
                            Err(name) => text(name, out),
                        }
                        value.write(out);
                    }
                    out.extend(b"}");
                }
            }
        }
    }

    fn model() -> impl Strategy<Value = Model> {
        let text = || prop::collection::vec(any::<u8>(), 0..12);
        let leaf = prop_oneof![
            Just(Model::Null),
            any::<bool>().prop_map(Model::Boolean),
            any::<i64>().prop_map(Model::Integer),
            (-1e9..1e9).prop_map(Model::Float),
            text().prop_map(Model::Text),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            let key = prop_oneof![any::<i64>().prop_map(Ok), text().prop_map(Err)];
            prop::collection::vec((key, inner), 0..6).prop_map(Model::Array)
        })
    }

    fn session(variables: &[(String, Model)], handler: PhpHandler) -> Vec<u8> {
        let mut out = Vec::new();
        match handler {
            PhpHandler::Php => {
                for (name, value) in variables {
                    out.extend(format!("{name}|").bytes());
                    value.write(&mut out);
                }
            }
            PhpHandler::PhpBinary => {
                for (name, value) in variables {
                    out.push(u8::try_from(name.len()).unwrap());
                    out.extend(name.bytes());
                    value.write(&mut out);
                }
            }
            PhpHandler::PhpSerialize => {
                let entries = variables.iter();
                let entries =
                    entries.map(|(name, value)| (Err(name.clone().into_bytes()), value.clone()));
                Model::Array(entries.collect()).write(&mut out);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn prop_what_was_written_is_found(
            before in prop::collection::vec(("[a-z]{3,8}", model()), 0..5),
            id in any::<i64>(),
            after in prop::collection::vec(("[a-z]{3,8}", model()), 0..5),
        ) {
            let mut variables = before;
            variables.push(("id".to_owned(), Model::Integer(id)));
            variables.extend(after);
            for handler in [PhpHandler::Php, PhpHandler::PhpBinary, PhpHandler::PhpSerialize] {
                let text = session(&variables, handler);
                let values = PhpValues::session(&text, handler).unwrap();
                prop_assert_eq!(values.get("id"), Some(Scalar::Integer(id)));
                // A part of it never has another user, whether it can be read or not.
                for end in 0..text.len() {
                    if let Ok(values) = PhpValues::session(&text[..end], handler) {
                        let found = values.get("id");
                        prop_assert!(found.is_none() || found == Some(Scalar::Integer(id)));
                    }
                }
            }
        }

        #[test]
        fn prop_arbitrary_bytes_are_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            for handler in [PhpHandler::Php, PhpHandler::PhpBinary, PhpHandler::PhpSerialize] {
                if let Ok(values) = PhpValues::session(&text, handler) {
                    let _ = (values.get("id"), values.get("a.b"), values.scalar());
                }
            }
        }

        #[test]
        fn prop_almost_php_is_read_without_panic(text in "([a-z!]{0,3}\\||[bidsaOCERrN]:|[0-9-]{1,3}|[:;{}\"]){0,60}") {
            for handler in [PhpHandler::Php, PhpHandler::PhpBinary, PhpHandler::PhpSerialize] {
                if let Ok(values) = PhpValues::session(text.as_bytes(), handler) {
                    let _ = (values.get("a"), values.get("a.b"), values.scalar());
                }
            }
        }
    }
}
