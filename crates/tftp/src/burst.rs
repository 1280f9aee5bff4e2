//! Datagrams that leave together.

/// Datagrams for one node, end to end in one buffer: all are equally long, only the last may be shorter. So the kernel
/// can cut them apart itself (UDP segmentation offload), or the driver can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    bytes: Vec<u8>,
    datagram_bytes: usize,
}

impl Burst {
    /// All datagrams, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of each datagram but the last, in bytes; 0 if there is none.
    #[must_use]
    pub fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// How many datagrams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.datagram_bytes == 0 { 0 } else { self.bytes.len().div_ceil(self.datagram_bytes) }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.datagram_bytes.max(1))
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.datagram_bytes = 0;
    }

    /// One more datagram. None may follow a shorter one.
    pub(crate) fn push(&mut self, head: &[u8], body: &[u8]) {
        self.datagram_bytes = self.datagram_bytes.max(head.len() + body.len());
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(body);
    }
}
