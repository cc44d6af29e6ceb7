//! The reader against the specification's rules, and against an encoder that is not ours.

use proptest::prelude::*;
use proxy_header::{ProxiedAddress, ProxyHeader as Witness};

use super::*;
use crate::ProxyHeaderError as Error;

/// Reads `bytes` whole; returns how many belong to the header.
fn read(bytes: &[u8]) -> Result<(usize, Option<ProxyHeader>), Error> {
    let whole = ProxyHeaderReader::new().read(bytes);
    assert_eq!(read_in_steps(bytes, &[1]), whole, "byte by byte");
    whole
}

/// Reads `bytes` in pieces of the given sizes, over and over.
fn read_in_steps(bytes: &[u8], steps: &[usize]) -> Result<(usize, Option<ProxyHeader>), Error> {
    let mut reader = ProxyHeaderReader::new();
    let mut rest = bytes;
    for step in steps.iter().cycle() {
        let (piece, tail) = rest.split_at((*step).min(rest.len()));
        let (consumed, header) = reader.read(piece)?;
        if header.is_some() || tail.is_empty() {
            return Ok((bytes.len() - rest.len() + consumed, header));
        }
        assert_eq!(consumed, piece.len());
        rest = tail;
    }
    unreachable!("there are steps")
}

fn proxied(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader::Proxied {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([version_and_command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn lines_of_version_1_are_understood() {
    for (line, header) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            proxied("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP6 2001:DB8::1 ::ffff:192.0.2.1 0 443\r\n",
            proxied("[2001:db8::1]:0", "[::ffff:192.0.2.1]:443"),
        ),
        ("PROXY UNKNOWN\r\n", ProxyHeader::Local),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            ProxyHeader::Local,
        ),
    ] {
        let bytes = [line.as_bytes(), b"GET"].concat();
        assert_eq!(read(&bytes), Ok((line.len(), Some(header))), "{line}");
    }
}

#[test]
fn t04_lines_that_the_specification_forbids_are_refused() {
    for (line, error) in [
        ("GET / HTTP/1.1\r\n", Error::Missing),
        ("proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Error::Missing),
        ("PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", Error::Missing),
        ("PROXY\r\n", Error::Missing),
        ("PROXY \r\n", Error::Protocol),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Error::Protocol),
        ("PROXY UNKNOWNx\r\n", Error::Protocol),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Error::Protocol),
        ("PROXY TCP4\r\n", Error::Addresses),
        ("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3 1 2\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n", Error::Addresses),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Error::Addresses),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Error::Addresses),
        ("PROXY TCP6 fe80::1%1 ::1 1 2\r\n", Error::Addresses),
        ("PROXY TCP6 00001::1 ::1 1 2\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", Error::Addresses),
        ("PROXY TCP4 1.2.3.4 \u{661}.2.3.4 1 2\r\n", Error::Addresses),
    ] {
        assert_eq!(read(line.as_bytes()), Err(error), "{line}");
    }
}

#[test]
fn t04_leading_zeros_are_refused() {
    for line in [
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.004 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(Error::Addresses), "{line}");
    }
}

#[test]
fn t04_a_line_of_107_bytes_is_the_longest() {
    let line = |len: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(len - 2, b'x');
        line.extend(b"\r\n");
        line
    };
    assert_eq!(read(&line(107)), Ok((107, Some(ProxyHeader::Local))));
    assert_eq!(read(&line(108)), Err(Error::LineTooLong));
    // Refused at once, not when more comes.
    assert_eq!(read(&line(110)[..106]), Ok((106, None)));
    assert_eq!(read(&line(110)[..107]), Err(Error::LineTooLong));
}

#[test]
fn t04_a_line_ends_with_cr_and_lf() {
    for line in ["PROXY UNKNOWN\n", "PROXY UNKNOWN\rx", "PROXY UNKNOWN\r\r"] {
        assert_eq!(read(line.as_bytes()), Err(Error::LineEnd), "{line:?}");
    }
}

#[test]
fn headers_of_version_2_are_understood() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    let v4_header = proxied("192.0.2.1:4711", "198.51.100.1:443");
    let v6 = [&[0x20; 16][..], &[0; 16], &[0, 1, 0, 2]].concat();
    let v6_header = proxied("[2020:2020:2020:2020:2020:2020:2020:2020]:1", "[::]:2");
    let with_extras = |body: &[u8]| [body, &[0xff; 9]].concat();
    for (command, family, body, header) in [
        (0x21, 0x11, v4.to_vec(), v4_header),
        (0x21, 0x11, with_extras(&v4), v4_header),
        (0x21, 0x21, v6.clone(), v6_header),
        (0x21, 0x21, with_extras(&v6), v6_header),
        (0x21, 0x00, vec![], ProxyHeader::Local),
        (0x21, 0x00, vec![7; 12], ProxyHeader::Local),
        (0x21, 0x12, v4.to_vec(), ProxyHeader::Local),
        (0x21, 0x22, v6.clone(), ProxyHeader::Local),
        (0x21, 0x31, vec![0; 216], ProxyHeader::Local),
        (0x21, 0x32, vec![0; 300], ProxyHeader::Local),
        (0x20, 0x00, vec![], ProxyHeader::Local),
        (0x20, 0x11, v4.to_vec(), ProxyHeader::Local),
        // The family of a LOCAL header is to be ignored.
        (0x20, 0xff, vec![1; 5], ProxyHeader::Local),
    ] {
        let bytes = binary(command, family, &body);
        let followed = [&bytes[..], b"GET"].concat();
        assert_eq!(
            read(&followed),
            Ok((bytes.len(), Some(header))),
            "{bytes:?}"
        );
        assert_eq!(read(&bytes[..bytes.len() - 1]), Ok((bytes.len() - 1, None)));
    }
}

#[test]
fn t04_headers_of_another_version_command_or_family_are_refused() {
    for (command, family, body, error) in [
        (0x11, 0x11, &[0; 12][..], Error::Version(1)),
        (0x31, 0x11, &[0; 12], Error::Version(3)),
        (0x01, 0x11, &[0; 12], Error::Version(0)),
        (0x22, 0x11, &[0; 12], Error::Command(2)),
        (0x21, 0x10, &[0; 12], Error::Family(0x10)),
        (0x21, 0x13, &[0; 12], Error::Family(0x13)),
        (0x21, 0x41, &[0; 216], Error::Family(0x41)),
        (0x21, 0x11, &[0; 11], Error::Length(11)),
        (0x21, 0x22, &[0; 35], Error::Length(35)),
        (0x21, 0x31, &[0; 215], Error::Length(215)),
    ] {
        assert_eq!(read(&binary(command, family, body)), Err(error));
    }
    // The version is refused with its byte, whatever may follow.
    assert_eq!(read(&binary(0x11, 0x11, &[])[..13]), Err(Error::Version(1)));
    assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\r"), Err(Error::Missing));
}

#[test]
fn t04_the_longest_header_is_skipped_and_not_kept() {
    let mut body = vec![0xaa; 65535];
    body[..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]);
    let bytes = binary(0x21, 0x11, &body);
    let header = proxied("1.2.3.4:9", "5.6.7.8:10");
    assert_eq!(read(&bytes), Ok((16 + 65535, Some(header))));

    let mut reader = ProxyHeaderReader::new();
    assert_eq!(reader.read(&bytes[..30_000]), Ok((30_000, None)));
    assert!(matches!(reader.state, State::Skipping { rest: 35_551, .. }));
}

fn any_pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<(std::net::SocketAddrV4, std::net::SocketAddrV4)>()
        .prop_map(|(a, b)| (SocketAddr::V4(a), SocketAddr::V4(b)));
    let v6 = any::<(Ipv6Addr, u16, Ipv6Addr, u16)>().prop_map(|(a, port, b, to)| {
        (
            SocketAddr::new(a.into(), port),
            SocketAddr::new(b.into(), to),
        )
    });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn prop_what_another_encoder_writes_is_read(
        (source, destination) in any_pair(),
        is_line in any::<bool>(),
        steps in prop::collection::vec(1usize..50, 1..8),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let witness = Witness::with_address(ProxiedAddress::stream(source, destination));
        let mut bytes = [0; 256];
        let len = if is_line {
            witness.encode_to_slice_v1(&mut bytes).unwrap()
        } else {
            witness.encode_to_slice_v2(&mut bytes).unwrap()
        };
        let bytes = [&bytes[..len], &tail].concat();
        let header = ProxyHeader::Proxied { source, destination };
        prop_assert_eq!(read_in_steps(&bytes, &steps), Ok((len, Some(header))));
    }

    #[test]
    fn prop_cuts_change_nothing_and_no_bytes_panic(
        start in prop_oneof![
            Just(Vec::new()),
            Just(LINE_START.to_vec()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(SIGNATURE.to_vec()),
            Just(binary(0x21, 0x11, &[])[..14].to_vec()),
            Just(binary(0x21, 0x21, &[])[..15].to_vec()),
        ],
        tail in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[0-9a-f.: \r\n]{0,120}".prop_map(String::into_bytes),
        ],
        steps in prop::collection::vec(1usize..50, 1..8),
    ) {
        let bytes = [start, tail].concat();
        let whole = ProxyHeaderReader::new().read(&bytes);
        prop_assert_eq!(read_in_steps(&bytes, &steps), whole);
    }
}
