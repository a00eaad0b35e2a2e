//! Packets for tests, with checksums worked out word by word.

/// What a made packet is to be.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) is_v4: bool,
    pub(crate) is_tcp: bool,
    pub(crate) port: u16,
    pub(crate) number: u16,
    pub(crate) may_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    /// Of TCP, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            is_v4: true,
            is_tcp: true,
            port: 443,
            number: 7,
            may_fragment: false,
            sequence: 1_000,
            flags: 0x10,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl Made {
    pub(crate) fn udp(payload: &[u8]) -> Self {
        Self { is_tcp: false, payload: payload.to_vec(), ..Self::default() }
    }

    pub(crate) fn packet(&self) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        let mut transport = Vec::new();
        transport.extend(5_000_u16.to_be_bytes());
        transport.extend(self.port.to_be_bytes());
        let at = if self.is_tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(77_u32.to_be_bytes());
            let words = u8::try_from(5 + self.options.len() / 4).unwrap();
            transport.extend([words << 4, self.flags, 1, 0, 0, 0, 0, 0]);
            transport.extend(&self.options);
            16
        } else {
            transport.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            transport.extend([0, 0]);
            6
        };
        transport.extend(&self.payload);
        let length = u16::try_from(transport.len()).unwrap();
        let mut packet = if self.is_v4 {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + length).to_be_bytes());
            ip.extend(self.number.to_be_bytes());
            ip.extend([if self.may_fragment { 0 } else { 0x40 }, 0, 64, protocol, 0, 0]);
            ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = slow_checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            ip
        } else {
            let mut ip = vec![0x60, 0, 0, 9];
            ip.extend(length.to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend([0xfd; 32]);
            ip
        };
        let sum = match slow_checksum(&summed(&packet, &transport, protocol)) {
            0 if !self.is_tcp => 0xffff,
            sum => sum,
        };
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(transport);
        packet
    }
}

/// Pseudo header and transport.
fn summed(ip: &[u8], transport: &[u8], protocol: u8) -> Vec<u8> {
    let mut bytes = if ip[0] >> 4 == 4 { ip[12..20].to_vec() } else { ip[8..40].to_vec() };
    bytes.extend([0, protocol]);
    bytes.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
    bytes.extend(transport);
    bytes
}

/// Whether every checksum of a TCP or UDP packet without options or extension headers is right.
pub(crate) fn is_right(packet: &[u8]) -> bool {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = if at == 20 { packet[9] } else { packet[6] };
    (at == 40 || slow_checksum(&packet[..20]) == 0)
        && slow_checksum(&summed(&packet[..at], &packet[at..], protocol)) == 0
}

/// One word after the other, as RFC 1071 describes it.
pub(crate) fn slow_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
