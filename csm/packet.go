package csm

import (
	"encoding/binary"
	"strconv"
)

const (
	// HeaderSize is the length of a packet header in bytes.
	HeaderSize = 44
	// MaxPayload is the largest payload of one packet in bytes; Linux sends no
	// more (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
	MaxPayload = 64 << 10
	// MaxMessage is the longest message in bytes, of either direction: what the
	// guest may send into our buffer, and what it is sent.
	MaxMessage = 256 << 10
	// HostCID is the well-known address of the host (virtio v1.4 §5.10.4).
	HostCID = 2
)

// Type is a socket type (virtio v1.4 §5.10.6).
type Type uint16

const (
	TypeStream    Type = 1
	TypeSeqpacket Type = 2
)

// Op is a packet operation (virtio v1.4 §5.10.6).
type Op uint16

const (
	OpInvalid Op = iota
	OpRequest
	OpResponse
	OpRST
	OpShutdown
	OpRW
	OpCreditUpdate
	OpCreditRequest
)

var opNames = [...]string{
	"INVALID", "REQUEST", "RESPONSE", "RST", "SHUTDOWN", "RW", "CREDIT_UPDATE", "CREDIT_REQUEST",
}

// String returns the specification's name of the operation.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return "op " + strconv.Itoa(int(o))
}

// Flags of SHUTDOWN: hints that accumulate and are never taken back
// (virtio v1.4 §5.10.6.5).
const (
	ShutdownRcv  uint32 = 1 // the sender will receive no more
	ShutdownSend uint32 = 2 // the sender will send no more
	ShutdownBoth        = ShutdownRcv | ShutdownSend
)

// Flags of RW on a connection of messages (virtio v1.4 §5.10.6.6); on a stream
// they mean nothing. A record's end, SeqEOR, cannot be told to AF_UNIX.
const (
	SeqEOM uint32 = 1 // the message ends with this packet
	SeqEOR uint32 = 2 // so does the record
)

// Header is struct virtio_vsock_hdr in host order (virtio v1.4 §5.10.6).
type Header struct {
	SrcCID   uint64
	DstCID   uint64
	SrcPort  uint32
	DstPort  uint32
	Len      uint32
	Type     Type
	Op       Op
	Flags    uint32
	BufAlloc uint32
	FwdCnt   uint32
}

// EndsMessage reports whether an RW packet is the end of a message.
func (h *Header) EndsMessage() bool { return h.Type == TypeSeqpacket && h.Flags&SeqEOM != 0 }

// Decode reads the wire form. Any 44 bytes decode; meaning is checked elsewhere.
func (h *Header) Decode(b *[HeaderSize]byte) {
	le := binary.LittleEndian
	h.SrcCID = le.Uint64(b[0:])
	h.DstCID = le.Uint64(b[8:])
	h.SrcPort = le.Uint32(b[16:])
	h.DstPort = le.Uint32(b[20:])
	h.Len = le.Uint32(b[24:])
	h.Type = Type(le.Uint16(b[28:]))
	h.Op = Op(le.Uint16(b[30:]))
	h.Flags = le.Uint32(b[32:])
	h.BufAlloc = le.Uint32(b[36:])
	h.FwdCnt = le.Uint32(b[40:])
}

// Encode writes the wire form.
func (h *Header) Encode(b *[HeaderSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.SrcCID)
	le.PutUint64(b[8:], h.DstCID)
	le.PutUint32(b[16:], h.SrcPort)
	le.PutUint32(b[20:], h.DstPort)
	le.PutUint32(b[24:], h.Len)
	le.PutUint16(b[28:], uint16(h.Type))
	le.PutUint16(b[30:], uint16(h.Op))
	le.PutUint32(b[32:], h.Flags)
	le.PutUint32(b[36:], h.BufAlloc)
	le.PutUint32(b[40:], h.FwdCnt)
}
