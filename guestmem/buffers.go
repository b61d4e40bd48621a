package guestmem

import (
	"os"

	"golang.org/x/sys/unix"
)

// Buffers is a growing list of ranges of guest memory. Methods that take from
// and to work on the ranges [from, to) of the list. Ranges are leases: they are
// invalid once their chain is pushed or their region is unmapped.
//
// The zero value is empty. The list keeps its storage when it shrinks, so that
// a Buffers which is used again does not allocate.
type Buffers struct {
	iov     []unix.Iovec
	touched byte // keeps the reads of Touch from being optimised away
}

// Len returns the number of ranges.
func (b *Buffers) Len() int { return len(b.iov) }

// Reset drops all ranges.
func (b *Buffers) Reset() { b.iov = b.iov[:0] }

// Truncate keeps the first n ranges.
func (b *Buffers) Truncate(n int) { b.iov = b.iov[:n] }

// Append adds the n bytes at gpa, as several ranges where they cross regions,
// as none when n is 0. It fails with ErrOutOfRange and leaves b as it was when
// any of them is not guest memory.
func (b *Buffers) Append(t *Table, gpa uint64, n uint32) error {
	iov := b.iov
	for left := uint64(n); left > 0; {
		c := t.chunk(gpa, left)
		if c == nil {
			return ErrOutOfRange
		}
		iov = append(iov, unix.Iovec{Base: &c[0], Len: uint64(len(c))})
		gpa += uint64(len(c))
		left -= uint64(len(c))
	}
	b.iov = iov
	return nil
}

// AppendHead adds the first n bytes of ranges [from, to) of src, or all of them
// if they are fewer. src may be b.
func (b *Buffers) AppendHead(src *Buffers, from, to int, n uint64) {
	for _, v := range src.iov[from:to] {
		if n == 0 {
			return
		}
		v.Len = min(v.Len, n)
		n -= v.Len
		b.iov = append(b.iov, v)
	}
}

// Bytes returns the number of bytes in the ranges.
func (b *Buffers) Bytes(from, to int) uint64 {
	var n uint64
	for i := range b.iov[from:to] {
		n += b.iov[from+i].Len
	}
	return n
}

// Skip drops the first n bytes of the ranges, or all of them if they are fewer.
// It drops no range: some are empty afterwards.
func (b *Buffers) Skip(from, to int, n uint64) {
	for i := from; i < to && n > 0; i++ {
		k := min(n, b.iov[i].Len)
		advance(&b.iov[i], k)
		n -= k
	}
}

// Limit cuts the ranges down to their first n bytes, or leaves them alone if
// they are fewer. These bytes are the ranges [from, end) afterwards.
func (b *Buffers) Limit(from, to int, n uint64) (end int) {
	for i := from; i < to; i++ {
		if b.iov[i].Len >= n {
			b.iov[i].Len = n
			return i + 1
		}
		n -= b.iov[i].Len
	}
	return to
}

// CopyOut copies from guest memory to dst and returns how many bytes.
func (b *Buffers) CopyOut(from, to int, dst []byte) (n int) {
	for i := from; i < to && n < len(dst); i++ {
		n += copy(dst[n:], view(&b.iov[i]))
	}
	return n
}

// CopyIn copies src to guest memory and returns how many bytes.
func (b *Buffers) CopyIn(from, to int, src []byte) (n int) {
	for i := from; i < to && n < len(src); i++ {
		n += copy(view(&b.iov[i]), src[n:])
	}
	return n
}

// maxVector is how many ranges one system call takes (UIO_MAXIOV).
const maxVector = 1024

// vector returns the ranges for one system call: it starts at the first that is
// not empty, and is empty if all are.
func (b *Buffers) vector(from, to int) []unix.Iovec {
	for from < to && b.iov[from].Len == 0 {
		from++
	}
	return b.iov[from:min(to, from+maxVector)]
}

// Touch reads a byte of every page of the ranges [from, to). Where a system call
// said EFAULT because pages are gone, it raises the fault here, in Go, for
// whoever recovers from faults in guest memory.
func (b *Buffers) Touch(from, to int) {
	for i := from; i < to; i++ {
		v := view(&b.iov[i])
		for off := 0; off < len(v); off += os.Getpagesize() {
			b.touched = v[off]
		}
		if len(v) > 0 {
			b.touched = v[len(v)-1]
		}
	}
}
