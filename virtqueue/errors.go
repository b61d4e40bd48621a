package virtqueue

import (
	"errors"
	"fmt"
)

// Errors of New and Rebind; guestmem.ErrOutOfRange and guestmem.ErrMisaligned
// are others.
var (
	ErrSize = errors.New("ring size out of range, or no power of two in a split ring")
	ErrBase = errors.New("ring base out of range")
)

// What breaks a ring.
var (
	ErrAvailIdx        = errors.New("available index moved by more than the ring size")
	ErrIndex           = errors.New("descriptor index or buffer id out of range")
	ErrChainLoop       = errors.New("descriptor chain is longer than its table allows")
	ErrChainCut        = errors.New("descriptor chain is not available as a whole")
	ErrOrder           = errors.New("readable descriptor behind a writable one")
	ErrIndirectFeature = errors.New("indirect descriptor without VIRTIO_F_INDIRECT_DESC")
	ErrIndirectNested  = errors.New("indirect descriptor in an indirect table")
	ErrIndirectNext    = errors.New("indirect descriptor with a next one")
	ErrIndirectLen     = errors.New("indirect table length is zero, too large or no multiple of 16")
	ErrIndirectTable   = errors.New("indirect table outside guest memory")
)

// ErrTooManyRanges is what makes a chain unfit to be served, beside
// guestmem.ErrOutOfRange: its buffers fall into too many pieces.
var ErrTooManyRanges = errors.New("descriptor chain has too many ranges")

// RingError says what broke a ring, and where.
type RingError struct {
	NextAvail uint16 // the low half of Queue.Base
	Err       error  // one of the sentinels above
}

func (e *RingError) Error() string {
	return fmt.Sprintf("ring broken at available index %d: %v", e.NextAvail, e.Err)
}

func (e *RingError) Unwrap() error { return e.Err }
