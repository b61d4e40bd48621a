package guestmem

import (
	"errors"
	"math"
)

// logPage is how many bytes of guest memory one bit of a DirtyLog stands for
// (VHOST_LOG_PAGE).
const logPage = 4096

// ErrEmptyLog says that a dirty log has no bytes.
var ErrEmptyLog = errors.New("dirty log is empty")

// DirtyLog is the log of pages that VHOST_USER_SET_LOG_BASE passes: one bit for
// each 4096 bytes of guest addresses. The frontend reads it, and clears it, while
// we write to it.
type DirtyLog struct {
	log  window
	lost uint64
}

// MapDirtyLog maps the size bytes of fd from offset on, which needs no alignment.
// It fails with ErrEmptyLog, ErrNotAFile, ErrBeyondFile or ErrAddressSpace, or as mmap
// does. fd remains the caller's, who may close it at once.
func MapDirtyLog(fd int, size, offset uint64) (*DirtyLog, error) {
	if size == 0 {
		return nil, ErrEmptyLog
	}
	log, err := mapWindow(fd, size, offset, maxLog)
	if err != nil {
		return nil, err
	}
	return &DirtyLog{log: log}, nil
}

// Mark marks the pages of the n bytes at guestAddr, which were written before.
// Pages that the log has no bit for are counted.
func (l *DirtyLog) Mark(guestAddr, n uint64) {
	if n == 0 {
		return
	}
	first := guestAddr / logPage
	last := (guestAddr + min(n-1, math.MaxUint64-guestAddr)) / logPage
	held := min(last+1, max(first, l.pages()))
	for page := first; page < held; page++ {
		l.mark(page)
	}
	l.lost += last + 1 - held
}

// MarkAll marks every page.
func (l *DirtyLog) MarkAll() {
	for page := range l.pages() {
		l.mark(page)
	}
}

// pages returns how many pages the log has bits for.
func (l *DirtyLog) pages() uint64 { return 8 * uint64(len(l.log.mem)) }

// Lost returns how many pages were to be marked that the log has no bit for.
func (l *DirtyLog) Lost() uint64 { return l.lost }

// Holds reports whether an access at hostAddr that faulted was one to the log,
// as Table.Holds does for guest memory.
func (l *DirtyLog) Holds(hostAddr uintptr) bool { return l.log.holds(hostAddr) }

// Close unmaps the log, which has no bits afterwards.
func (l *DirtyLog) Close() error {
	mapping := l.log.mapping
	l.log = window{}
	return unmap(mapping)
}
