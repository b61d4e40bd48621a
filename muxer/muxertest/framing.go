package muxertest

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// LinuxRxBuffer is the length in bytes of the receive buffers that Linux posts:
// a page without the room that it needs for itself.
const LinuxRxBuffer = 3776

// Framing says how packets lie in descriptors. The zero Framing is that of Linux.
type Framing struct {
	// Rx has the lengths in bytes of the descriptors of each receive buffer;
	// nil means one of LinuxRxBuffer.
	Rx []int
	// Tx returns the lengths of the pieces of a packet of size bytes, header
	// included; nil means LinuxTx.
	Tx func(size int) []int
	// Direct is how many pieces have descriptors of their own in a ring with
	// indirect descriptors; the others are in a table. -1 means all of them.
	Direct int
	// Gap is how many bytes lie between one piece and the next in memory.
	Gap int
}

// LinuxTx is the framing of Linux from 6.12 on: a header alone is one piece,
// payload follows it in pieces of 32 KiB.
func LinuxTx(size int) []int {
	pieces := []int{csm.HeaderSize}
	for left := size - csm.HeaderSize; left > 0; {
		n := min(left, 32<<10)
		pieces = append(pieces, n)
		left -= n
	}
	return pieces
}

// OnePiece is the framing of drivers with one buffer for header and payload.
func OnePiece(size int) []int { return []int{size} }

// Pieces returns a framing of n pieces of about the same length, so that the
// header is split where the payload is small.
func Pieces(n int) func(size int) []int {
	return func(size int) []int {
		pieces := make([]int, 0, n)
		for i := range n {
			pieces = append(pieces, size*(i+1)/n-size*i/n)
		}
		return pieces
	}
}

// CutAt returns a framing that cuts a packet behind each of the given bytes.
func CutAt(cuts ...int) func(size int) []int {
	return func(size int) []int {
		var pieces []int
		at := 0
		for _, cut := range cuts {
			if cut < size {
				pieces = append(pieces, cut-at)
				at = cut
			}
		}
		return append(pieces, size-at)
	}
}

// room is guest memory that one packet has been given.
type room struct {
	gpa   uint64
	bytes int
	segs  []virtqueuetest.Segment
}

// layOut cuts the room into pieces of the given lengths.
func (r *room) layOut(pieces []int, gap int, write bool) {
	r.segs = r.segs[:0]
	gpa := r.gpa
	for _, n := range pieces {
		r.segs = append(r.segs, virtqueuetest.Segment{Addr: gpa, Len: uint32(n), Write: write})
		gpa += uint64(n + gap)
	}
}

// span returns how many bytes of memory pieces take with their gaps.
func span(pieces []int, gap int) int {
	n := 0
	for _, p := range pieces {
		n += p + gap
	}
	return n
}

// copyIn writes p into the pieces from the first on, skip bytes behind the start.
func (r *room) copyIn(mem *virtqueuetest.Memory, skip int, p []byte) {
	for _, s := range r.segs {
		if skip >= int(s.Len) {
			skip -= int(s.Len)
			continue
		}
		n := copy(mem.Bytes(s.Addr, uint64(s.Len))[skip:], p)
		p, skip = p[n:], 0
	}
}

// copyOut reads from the pieces, skip bytes behind the start, until p is full.
func (r *room) copyOut(mem *virtqueuetest.Memory, skip int, p []byte) {
	for _, s := range r.segs {
		if skip >= int(s.Len) {
			skip -= int(s.Len)
			continue
		}
		n := copy(p, mem.Bytes(s.Addr, uint64(s.Len))[skip:])
		p, skip = p[n:], 0
	}
}
