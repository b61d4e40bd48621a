package guestmem

import (
	"errors"
	"sync/atomic"
)

// The address space of a process is 128 TiB. All that map guest memory share it with the
// Go runtime, which ends the process when it finds none; and a file that takes much of it
// costs a frontend nothing.
const (
	maxSpace = 64 << 40 // bytes of all mappings of the process
	maxTable = 16 << 40 // bytes of guest memory of one Table; two are mapped while one replaces the other
	maxLog   = maxSpace / logPage / 8
)

// ErrAddressSpace says that a mapping would take more address space than there is for it.
var ErrAddressSpace = errors.New("too much address space")

// taken is the address space that mappings of the process take.
var taken = space{limit: maxSpace}

// space counts what is taken of something that has a limit. It is safe for concurrent use.
type space struct {
	limit uint64
	taken atomic.Uint64
}

// take takes n, or nothing where that is too much.
func (s *space) take(n uint64) error {
	for {
		before := s.taken.Load()
		if n > s.limit-before {
			return ErrAddressSpace
		}
		if s.taken.CompareAndSwap(before, before+n) {
			return nil
		}
	}
}

// giveBack gives back what was taken.
func (s *space) giveBack(n uint64) { s.taken.Add(-n) }
