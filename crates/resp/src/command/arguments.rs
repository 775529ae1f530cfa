//! The notation in which the command table writes down the arguments of a command, for `COMMAND DOCS` and the help
//! texts.
//!
//! Arguments stand in order, with a space between them:
//!
//! ```text
//! key                        a key: name and type are both `key`
//! newkey:key2                a key of the second lot (`then` in the table, or found by its word); key3: of the third
//! by:pattern1                a pattern of keys of the second lot
//! NX                         the bare word NX, a "pure token"
//! seconds:integer            an argument of a type
//! EX=seconds:integer         the word EX and then the argument
//! condition(NX|XX)           one of several
//! 'ip:port':string           a name in quotes may hold any sign
//! pair{key value:string}     several together, a "block"
//! ...? ...* ...@6.0.0 ...!7.0.0   suffixes, in this order: optional, may repeat (`**`: with its word), since which
//!                            version, since which version it is deprecated
//! ```
//!
//! The text comes from the table alone and a test reads every row, so a mistake in it is a panic.

use bytes::Bytes;

use crate::Reply;

/// One argument and what is inside it.
#[derive(Debug)]
pub(super) struct Argument {
    name: String,
    kind: &'static str,
    token: Option<&'static str>,
    since: Option<&'static str>,
    deprecated_since: Option<&'static str>,
    optional: bool,
    multiple: bool,
    /// When it repeats, its word does too.
    multiple_token: bool,
    inner: Vec<Argument>,
}

/// Reads the notation.
pub(super) fn parse(text: &'static str) -> Vec<Argument> {
    let mut parser = Parser { rest: text };
    let arguments = if text.is_empty() { Vec::new() } else { parser.list(' ') };
    assert!(parser.rest.is_empty(), "command table: cannot read {:?} in {text:?}", parser.rest);
    arguments
}

struct Parser {
    rest: &'static str,
}

impl Parser {
    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'static str {
        if self.take('\'') {
            let (word, rest) = self.rest.split_once('\'').expect("command table: a quote is open");
            self.rest = rest;
            return word;
        }
        let end =
            self.rest.find([' ', ':', '=', '(', ')', '{', '}', '|', '?', '*', '@', '!']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        assert!(!word.is_empty(), "command table: a word is missing before {rest:?}");
        self.rest = rest;
        word
    }

    fn list(&mut self, separator: char) -> Vec<Argument> {
        let mut arguments = vec![self.argument()];
        while self.take(separator) {
            arguments.push(self.argument());
        }
        arguments
    }

    fn argument(&mut self) -> Argument {
        let mut name = self.word();
        let mut token = None;
        if self.take('=') {
            token = Some(name);
            name = self.word();
        }
        let mut inner = Vec::new();
        let kind = if self.take(':') {
            self.word()
        } else if self.take('(') {
            inner = self.list('|');
            assert!(self.take(')'), "command table: a ) is missing before {:?}", self.rest);
            "oneof"
        } else if self.take('{') {
            inner = self.list(' ');
            assert!(self.take('}'), "command table: a closing brace is missing before {:?}", self.rest);
            "block"
        } else if name == "key" {
            "key"
        } else {
            token = Some(name);
            "pure-token"
        };
        let optional = self.take('?');
        let multiple = self.take('*');
        let multiple_token = multiple && self.take('*');
        let since = self.take('@').then(|| self.word());
        let deprecated_since = self.take('!').then(|| self.word());
        Argument {
            name: name.to_ascii_lowercase(),
            kind,
            token,
            since,
            deprecated_since,
            optional,
            multiple,
            multiple_token,
            inner,
        }
    }
}

/// The arguments as `COMMAND DOCS` describes them.
pub(super) fn describe(arguments: &[Argument]) -> Reply {
    Reply::Array(arguments.iter().map(describe_one).collect())
}

fn describe_one(argument: &Argument) -> Reply {
    let key_spec_index = match argument.kind {
        "key" => Some(0),
        "key2" | "pattern1" => Some(1),
        "key3" => Some(2),
        _ => None,
    };
    let kind = match argument.kind {
        "pattern1" => "pattern",
        _ if key_spec_index.is_some() => "key",
        kind => kind,
    };
    let mut fields = vec![
        (Reply::bulk_static("name"), Reply::Bulk(Bytes::from(argument.name.clone()))),
        (Reply::bulk_static("type"), Reply::bulk_static(kind)),
    ];
    if let Some(index) = key_spec_index {
        fields.push((Reply::bulk_static("key_spec_index"), Reply::Integer(index)));
    }
    if let Some(token) = argument.token {
        fields.push((Reply::bulk_static("token"), Reply::bulk_static(token)));
    }
    if let Some(since) = argument.since {
        fields.push((Reply::bulk_static("since"), Reply::bulk_static(since)));
    }
    if let Some(since) = argument.deprecated_since {
        fields.push((Reply::bulk_static("deprecated_since"), Reply::bulk_static(since)));
    }
    let Argument { optional, multiple, multiple_token, .. } = argument;
    let flags = [(optional, "optional"), (multiple, "multiple"), (multiple_token, "multiple_token")];
    let flags: Vec<_> = flags.iter().filter(|(set, _)| **set).map(|(_, name)| Reply::Simple(name)).collect();
    if !flags.is_empty() {
        fields.push((Reply::bulk_static("flags"), Reply::Set(flags)));
    }
    if !argument.inner.is_empty() {
        fields.push((Reply::bulk_static("arguments"), describe(&argument.inner)));
    }
    Reply::Map(fields)
}

/// The arguments as a help text shows them: `<key> <value> [NX | XX] [EX <seconds>]`.
pub(super) fn usage(arguments: &[Argument], separator: &str) -> String {
    arguments.iter().map(usage_of_one).collect::<Vec<_>>().join(separator)
}

fn usage_of_one(argument: &Argument) -> String {
    let value = match argument.kind {
        "pure-token" => String::new(),
        "oneof" => usage(&argument.inner, "|"),
        "block" => usage(&argument.inner, " "),
        _ => format!("<{}>", argument.name),
    };
    let mut text = match argument.token {
        Some(token) if value.is_empty() => token.to_owned(),
        Some(token) => format!("{token} {value}"),
        None => value,
    };
    if argument.multiple {
        text = format!("{text} [{text} ...]");
    }
    match (argument.optional, argument.kind) {
        (true, _) => format!("[{text}]"),
        (false, "oneof") => format!("({text})"),
        (false, _) => text,
    }
}
