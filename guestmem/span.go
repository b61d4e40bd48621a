package guestmem

import (
	"encoding/binary"
	"errors"
)

// ErrMisaligned says that an address lacks the alignment that its use asks for.
var ErrMisaligned = errors.New("address is misaligned")

// Span is a piece of guest memory that lies whole in one region. Its accessors
// check their offsets and panic outside of it, as indexing a slice does.
//
// A Span is a lease: it is invalid once its region is unmapped.
type Span struct{ mem []byte }

// NewSpan returns a view of mem, for a driver that has the ring in a mapping of
// its own.
func NewSpan(mem []byte) Span { return Span{mem} }

// Load16 returns the little-endian number at off.
func (s Span) Load16(off int) uint16 { return binary.LittleEndian.Uint16(s.mem[off:]) }

// Load64 returns the little-endian number at off.
func (s Span) Load64(off int) uint64 { return binary.LittleEndian.Uint64(s.mem[off:]) }

// Store16 writes v at off, little endian.
func (s Span) Store16(off int, v uint16) { binary.LittleEndian.PutUint16(s.mem[off:], v) }

// Store32 writes v at off, little endian.
func (s Span) Store32(off int, v uint32) { binary.LittleEndian.PutUint32(s.mem[off:], v) }

// Store64 writes v at off, little endian.
func (s Span) Store64(off int, v uint64) { binary.LittleEndian.PutUint64(s.mem[off:], v) }
