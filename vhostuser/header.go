package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// HeaderSize is the number of bytes in front of a payload.
	HeaderSize = 12
	// MaxPayload bounds the size a header may announce. The largest message
	// we serve, a VHOST_USER_SET_MEM_TABLE of 32 regions, has 1032 bytes;
	// rust-vmm and crosvm send up to 4096.
	MaxPayload = 4096
	// MaxFds is how many descriptors one message may bring.
	MaxFds = 32
)

// Flags is the second word of a header.
type Flags uint32

const (
	FlagVersion   Flags = 1 << 0 // protocol version 1 in the lowest two bits
	FlagReply     Flags = 1 << 2
	FlagNeedReply Flags = 1 << 3

	versionMask Flags = 3
	knownFlags        = versionMask | FlagReply | FlagNeedReply
)

// Header precedes the payload of each message, in the host's byte order.
type Header struct {
	Request Request
	Flags   Flags
	Size    uint32 // bytes of payload
}

// Errors of a header that leaves the position in the stream uncertain.
var (
	errVersion   = errors.New("message version is not 1")
	errReply     = errors.New("reply where a request is due")
	errReserved  = errors.New("reserved header flags are set")
	errOversized = errors.New("payload is larger than any message")
)

// AppendTo appends the header's bytes to b.
func (h Header) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(h.Request))
	b = binary.NativeEndian.AppendUint32(b, uint32(h.Flags))
	return binary.NativeEndian.AppendUint32(b, h.Size)
}

// ParseHeader reads the first HeaderSize bytes of b.
func ParseHeader(b []byte) Header {
	return Header{
		Request: Request(binary.NativeEndian.Uint32(b)),
		Flags:   Flags(binary.NativeEndian.Uint32(b[4:])),
		Size:    binary.NativeEndian.Uint32(b[8:]),
	}
}

// check refuses a header that no frontend sends, before its size is believed.
func (h Header) check() error {
	var err error
	switch {
	case h.Flags&versionMask != FlagVersion:
		err = errVersion
	case h.Flags&FlagReply != 0:
		err = errReply
	case h.Flags&^knownFlags != 0:
		err = errReserved
	case h.Size > MaxPayload:
		err = errOversized
	default:
		return nil
	}
	return fmt.Errorf("%w: %v, flags 0x%x, size %d", err, h.Request, uint32(h.Flags), h.Size)
}
