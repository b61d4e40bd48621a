package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// mark sets the bit of a page that the log has a bit for. The frontend clears
// bits of the same word at the same time, so the word is changed in one step;
// that step is a full barrier too, so that what was written to the page is seen
// by whoever finds the bit.
func (l *DirtyLog) mark(page uint64) {
	b := &l.log.mem[page/8]
	// SAFETY: the aligned word around a byte of the mapping is in the same page of
	// it. Its other bytes, be they the log's or not, stay what they are.
	lead := uintptr(unsafe.Pointer(b)) % 4
	word := (*uint32)(unsafe.Add(unsafe.Pointer(b), -int(lead)))
	atomic.OrUint32(word, 1<<(8*uint(lead)+uint(page%8)))
}
