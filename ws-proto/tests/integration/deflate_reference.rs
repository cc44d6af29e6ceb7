//! A naive decoder of DEFLATE (RFC 1951), to look at what the compressor makes: nothing of it is
//! shared with the library that the crate uses.

/// What a stream holds.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) bytes: Vec<u8>,
    /// How far back the stream refers at most.
    pub(crate) max_distance: usize,
}

/// Decodes the blocks of one compressed message, with the end that was left out put back, as the
/// continuation of what was decoded before.
pub(crate) fn decode_message(message: &[u8], decoded: &mut Decoded) {
    let mut bytes = message.to_vec();
    bytes.extend([0x00, 0x00, 0xFF, 0xFF]);
    let mut bits = Bits {
        bytes: &bytes,
        at: 0,
    };
    while bits.at < bytes.len() * 8 {
        let is_final = bits.take(1) == 1;
        match bits.take(2) {
            0 => stored(&mut bits, decoded),
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                compressed(
                    &mut bits,
                    &Code::new(&lengths),
                    &Code::new(&[5; 30]),
                    decoded,
                );
            }
            2 => {
                let (literals, distances) = dynamic_codes(&mut bits);
                compressed(&mut bits, &literals, &distances, decoded);
            }
            other => panic!("block type {other}"),
        }
        assert!(!is_final, "we end no stream");
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next bits, the first of them the least significant.
    fn take(&mut self, count: usize) -> usize {
        (0..count).fold(0, |value, index| value | self.bit() << index)
    }

    fn bit(&mut self) -> usize {
        let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
        self.at += 1;
        bit.into()
    }
}

/// A canonical Huffman code: (length, bits) of each symbol.
struct Code(Vec<(usize, usize, usize)>);

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut symbols = Vec::new();
        let mut next = 0;
        for length in 1..=15 {
            next <<= 1;
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, at)| **at == length) {
                symbols.push((length, next, symbol));
                next += 1;
            }
        }
        Self(symbols)
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> usize {
        let (mut length, mut read) = (0, 0);
        for &(wanted, code, symbol) in &self.0 {
            while length < wanted {
                read = read << 1 | bits.bit();
                length += 1;
            }
            if read == code {
                return symbol;
            }
        }
        panic!("no such symbol");
    }
}

fn stored(bits: &mut Bits<'_>, decoded: &mut Decoded) {
    bits.at = bits.at.next_multiple_of(8);
    let (len, complement) = (bits.take(16), bits.take(16));
    assert_eq!(len, complement ^ 0xFFFF);
    let start = bits.at / 8;
    decoded.bytes.extend(&bits.bytes[start..start + len]);
    bits.at += len * 8;
}

fn dynamic_codes(bits: &mut Bits<'_>) -> (Code, Code) {
    let (literal_count, distance_count) = (bits.take(5) + 257, bits.take(5) + 1);
    let mut lengths = [0; 19];
    let order = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    for &index in &order[..bits.take(4) + 4] {
        lengths[index] = bits.take(3);
    }
    let code = Code::new(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literal_count + distance_count {
        let (value, count) = match code.symbol(bits) {
            16 => (
                *lengths.last().expect("there is one to repeat"),
                bits.take(2) + 3,
            ),
            17 => (0, bits.take(3) + 3),
            18 => (0, bits.take(7) + 11),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(value, count));
    }
    let (literals, distances) = lengths.split_at(literal_count);
    (Code::new(literals), Code::new(distances))
}

fn compressed(bits: &mut Bits<'_>, literals: &Code, distances: &Code, decoded: &mut Decoded) {
    loop {
        let symbol = literals.symbol(bits);
        let length = match symbol {
            0..=255 => {
                decoded.bytes.push(symbol as u8);
                continue;
            }
            256 => return,
            285 => 258,
            // RFC 1951 §3.2.5: four lengths for each number of extra bits, after the first eight.
            257..=264 => symbol - 254,
            _ => {
                let extra = (symbol - 261) / 4;
                3 + ((4 + (symbol - 265) % 4) << extra) + bits.take(extra)
            }
        };
        let symbol = distances.symbol(bits);
        let distance = match symbol {
            0..=3 => symbol + 1,
            _ => {
                let extra = symbol / 2 - 1;
                1 + ((2 + symbol % 2) << extra) + bits.take(extra)
            }
        };
        decoded.max_distance = decoded.max_distance.max(distance);
        for _ in 0..length {
            decoded
                .bytes
                .push(decoded.bytes[decoded.bytes.len() - distance]);
        }
    }
}
