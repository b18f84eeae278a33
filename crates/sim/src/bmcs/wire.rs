//! The BMC's side of the protocol: packets and cryptography, written from the IPMI 2.0
//! specification.
//!
//! Pure. Shares no code with the client's packets: a mistake that both sides shared would not be
//! found. Invariant: no bytes make it panic.

use aes::Aes128;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

/// RMCP header, section 13.1.3: version 1.0, no acknowledgement, class IPMI.
const RMCP_IPMI: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// RMCP header of class ASF; below, the number of the organisation that defined its messages.
const RMCP_ASF: [u8; 4] = [0x06, 0x00, 0xff, 0x06];
const ASF_IANA: [u8; 4] = [0x00, 0x00, 0x11, 0xbe];
const ASF_PING: u8 = 0x80;
const ASF_PONG: u8 = 0x40;

pub const OPEN_REQUEST: u8 = 0x10;
pub const RAKP1: u8 = 0x12;
pub const RAKP3: u8 = 0x14;

/// Cipher suites of table 22-20 that a simulated BMC can speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    Three,
    Seventeen,
}

impl Cipher {
    pub const ALL: [Cipher; 2] = [Cipher::Three, Cipher::Seventeen];

    pub fn id(self) -> u8 {
        match self {
            Cipher::Three => 3,
            Cipher::Seventeen => 17,
        }
    }

    /// Numbers of the authentication, integrity and confidentiality algorithms.
    pub fn algorithms(self) -> [u8; 3] {
        match self {
            Cipher::Three => [1, 1, 1],
            Cipher::Seventeen => [3, 4, 1],
        }
    }

    /// Length of the authentication code at the end of a packet and of RAKP message 4.
    fn short(self) -> usize {
        match self {
            Cipher::Three => 12,
            Cipher::Seventeen => 16,
        }
    }

    /// Keyed hash: 20 or 32 bytes.
    pub fn hash(self, key: &[u8], parts: &[&[u8]]) -> Hash {
        match self {
            Cipher::Three => digest::<Hmac<Sha1>>(key, parts),
            Cipher::Seventeen => digest::<Hmac<Sha256>>(key, parts),
        }
    }

    pub fn short_hash(self, key: &[u8], parts: &[&[u8]]) -> Hash {
        let mut hash = self.hash(key, parts);
        hash.length = self.short();
        hash
    }
}

fn digest<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Hash {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    let sum = mac.finalize().into_bytes();
    let mut hash = Hash { bytes: [0; 32], length: sum.len() };
    hash.bytes[..sum.len()].copy_from_slice(&sum);
    hash
}

/// Bytes of a keyed hash.
#[derive(Clone, Copy)]
pub struct Hash {
    bytes: [u8; 32],
    length: usize,
}

impl std::ops::Deref for Hash {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Keys of an open session, section 13.32.
#[derive(Clone, Copy)]
pub struct SimSessionKeys {
    cipher: Cipher,
    k1: Hash,
    aes: [u8; 16],
}

impl SimSessionKeys {
    pub fn of(cipher: Cipher, session_key: &[u8]) -> SimSessionKeys {
        let k2 = cipher.hash(session_key, &[&[0x02; 20]]);
        let mut aes = [0; 16];
        aes.copy_from_slice(&k2[..16]);
        SimSessionKeys { cipher, k1: cipher.hash(session_key, &[&[0x01; 20]]), aes }
    }
}

/// Kinds of datagrams.
#[derive(PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// ASF presence ping with this tag.
    Ping { tag: u8 },
    /// IPMI message outside any session, in the packet format of IPMI 1.5.
    Bare(&'a [u8]),
    /// A message of the key exchange.
    Exchange { kind: u8, body: &'a [u8] },
    /// Packet of a session; not yet verified or decrypted.
    Sealed { session: u32, sequence: u32, packet: &'a [u8], payload: &'a [u8] },
}

/// Reads a datagram; `None` for one that a BMC drops without an answer.
pub fn read(packet: &[u8]) -> Option<Packet<'_>> {
    if let Some(asf) = packet.strip_prefix(&RMCP_ASF) {
        return match asf.strip_prefix(&ASF_IANA)? {
            [ASF_PING, tag, ..] => Some(Packet::Ping { tag: *tag }),
            _ => None,
        };
    }
    // The sequence number of RMCP itself is not used by IPMI.
    let [0x06, _, _, 0x07, auth_type, rest @ ..] = packet else { return None };
    match auth_type {
        0x00 => {
            let (length, message) = rest.strip_prefix(&[0; 8])?.split_first()?;
            message.get(..usize::from(*length)).map(Packet::Bare)
        }
        0x06 => {
            let (kind, rest) = rest.split_first()?;
            let (session, rest) = rest.split_first_chunk()?;
            let (sequence, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let payload = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
            let session = u32::from_le_bytes(*session);
            match kind {
                0xc0 if session != 0 => Some(Packet::Sealed {
                    session,
                    sequence: u32::from_le_bytes(*sequence),
                    packet,
                    payload,
                }),
                0x10..=0x15 if session == 0 => {
                    Some(Packet::Exchange { kind: *kind, body: payload })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Answer to a ping: IPMI is supported.
pub fn pong(tag: u8) -> Vec<u8> {
    let mut packet = [RMCP_ASF, ASF_IANA].concat();
    packet.extend([ASF_PONG, tag, 0, 16, 0, 0, 0x11, 0xbe, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// Wraps an IPMI 1.5 message outside any session.
pub fn bare(message: &[u8]) -> Vec<u8> {
    let mut packet = [&RMCP_IPMI[..], &[0; 9], &[message.len() as u8]].concat();
    packet.extend(message);
    packet
}

/// Wraps the BMC's answer to a key exchange message of this kind.
pub fn exchange(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(16 + body.len());
    packet.extend(RMCP_IPMI);
    packet.extend([0x06, kind + 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend((body.len() as u16).to_le_bytes());
    packet.extend(body);
    packet
}

impl SimSessionKeys {
    /// Verifies and decrypts the payload of a packet, sections 13.28.4 and 13.29.
    pub fn open(&self, packet: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
        let (signed, code) = packet.split_at_checked(packet.len() - self.cipher.short())?;
        // RMCP header and session header have 16 bytes, pad length and next header 2.
        if signed.len() < 16 + payload.len() + 2 {
            return None;
        }
        if *self.cipher.short_hash(&self.k1, &[&signed[4..]]) != *code {
            return None;
        }
        let (iv, body) = payload.split_first_chunk::<16>()?;
        let mut clear = body.to_vec();
        let mut aes = cbc::Decryptor::<Aes128>::new(&self.aes.into(), iv.into());
        let (blocks, rest) = clear.as_chunks_mut::<16>();
        if !rest.is_empty() {
            return None;
        }
        for block in blocks {
            aes.decrypt_block(block.into());
        }
        // The pad is checked byte by byte, as a BMC does.
        let pad = clear.pop()?;
        for expected in (1..=pad).rev() {
            if clear.pop()? != expected {
                return None;
            }
        }
        Some(clear)
    }

    /// Encrypts and signs a message for the console's session.
    pub fn seal(&self, session: u32, sequence: u32, iv: [u8; 16], message: &[u8]) -> Vec<u8> {
        let pad = (16 - (message.len() + 1) % 16) % 16;
        let payload = 16 + message.len() + pad + 1;
        let mut packet = Vec::with_capacity(16 + payload + 8 + 16);
        packet.extend(RMCP_IPMI);
        packet.extend([0x06, 0xc0]);
        packet.extend(session.to_le_bytes());
        packet.extend(sequence.to_le_bytes());
        packet.extend((payload as u16).to_le_bytes());
        packet.extend(iv);
        let clear_at = packet.len();
        packet.extend(message);
        packet.extend((1..=pad).map(|byte| byte as u8));
        packet.push(pad as u8);
        let mut aes = cbc::Encryptor::<Aes128>::new(&self.aes.into(), &iv.into());
        for block in packet[clear_at..].as_chunks_mut::<16>().0 {
            aes.encrypt_block(block.into());
        }
        let mut integrity_pad = 0;
        while !(packet.len() - RMCP_IPMI.len() + 2).is_multiple_of(4) {
            packet.push(0xff);
            integrity_pad += 1;
        }
        packet.extend([integrity_pad, 0x07]);
        let code = self.cipher.short_hash(&self.k1, &[&packet[RMCP_IPMI.len()..]]);
        packet.extend(&*code);
        packet
    }
}

/// Request to the BMC, section 13.8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BmcRequest {
    pub netfn: u8,
    pub command: u8,
    pub data: Vec<u8>,
    /// Addresses, logical units and request number, which the answer repeats.
    console: u8,
    units: [u8; 2],
}

pub fn request(bytes: &[u8]) -> Option<BmcRequest> {
    let [to, netfn, head_sum, console, number, command, data @ .., tail_sum] = bytes else {
        return None;
    };
    let adds_up = |bytes: &[u8], sum: u8| bytes.iter().fold(sum, |a, b| a.wrapping_add(*b)) == 0;
    if *to != 0x20
        || !adds_up(&[*to, *netfn], *head_sum)
        || !adds_up(&bytes[3..bytes.len() - 1], *tail_sum)
    {
        return None;
    }
    Some(BmcRequest {
        netfn: netfn >> 2,
        command: *command,
        data: data.to_vec(),
        console: *console,
        units: [netfn & 0x03, *number],
    })
}

impl BmcRequest {
    /// Builds the answer to the request.
    pub fn answer(&self, completion: u8, data: &[u8]) -> Vec<u8> {
        let [unit, number] = self.units;
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        let mut bytes = Vec::with_capacity(8 + data.len());
        // The requester's unit stands in the request number, the responder's in the function.
        bytes.extend([self.console, (self.netfn | 1) << 2 | number & 0x03]);
        bytes.push(sum(&bytes));
        bytes.extend([0x20, number & 0xfc | unit, self.command, completion]);
        bytes.extend(data);
        bytes.push(sum(&bytes[3..]));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sealed_message_opens_with_the_same_keys_only() {
        for cipher in Cipher::ALL {
            let keys = SimSessionKeys::of(cipher, b"session key");
            for length in 0..40 {
                let message = vec![7; length];
                let packet = keys.seal(0x0102_0304, 9, [5; 16], &message);
                let Some(Packet::Sealed { session: 0x0102_0304, sequence: 9, packet, payload }) =
                    read(&packet)
                else {
                    panic!("{packet:02x?}");
                };
                assert_eq!(keys.open(packet, payload), Some(message));
                assert_eq!(SimSessionKeys::of(cipher, b"another").open(packet, payload), None);
            }
        }
    }

    #[test]
    fn an_answer_carries_what_the_request_carried() {
        // Get Chassis Status in the layout of section 13.8, request number 1.
        let request = request(&hex::decode("2000e08104017a").unwrap()).unwrap();
        assert_eq!((request.netfn, request.command), (0, 1));
        assert_eq!(hex::encode(request.answer(0, &[0x21])), "81047b2004010021ba");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&bytes);
            let _ = request(&bytes);
            let keys = SimSessionKeys::of(Cipher::Three, b"key");
            let packet = [&RMCP_IPMI[..], &[0x06, 0xc0], &bytes].concat();
            if let Some(Packet::Sealed { packet, payload, .. }) = read(&packet) {
                prop_assert_eq!(keys.open(packet, payload), None);
            }
        }
    }
}
