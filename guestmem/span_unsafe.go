package guestmem

import "unsafe"

// loadAcquire16 and storeRelease16 are in span_*.s: sync/atomic has no 16-bit
// type, and 32-bit accesses would touch bytes that are not ours.

//go:noescape
func loadAcquire16(p *uint16) uint16

//go:noescape
func storeRelease16(p *uint16, v uint16)

// Fence is a full memory barrier: stores before it are visible to the driver
// before any load behind it is done.
func Fence()

// LoadAcquire16 returns the number at off. What the driver wrote before it
// stored that number is visible afterwards. off must be even in a Span that was
// taken with an even alignment.
func (s Span) LoadAcquire16(off int) uint16 {
	v := loadAcquire16(s.pointer16(off))
	raceAcquire()
	return v
}

// StoreRelease16 writes v at off. Whoever reads it with acquire sees all that
// was written before. off must be even, as for LoadAcquire16.
func (s Span) StoreRelease16(off int, v uint16) {
	raceRelease()
	storeRelease16(s.pointer16(off), v)
}

func (s Span) pointer16(off int) *uint16 {
	b := s.mem[off : off+2]
	// SAFETY: the slice expression has checked that two bytes of the mapping are
	// there; Table.Span has checked the alignment of the span.
	return (*uint16)(unsafe.Pointer(unsafe.SliceData(b)))
}

// address returns where b is in our address space.
func address(b []byte) uintptr {
	// SAFETY: the pointer becomes a number and is never turned back.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}
