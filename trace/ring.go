package trace

import "sync/atomic"

// ring is bytes on their way from one goroutine, which puts them, to another one,
// which takes them. Neither waits for the other.
type ring struct {
	bytes []byte
	head  atomic.Uint64 // how many bytes were ever put
	tail  atomic.Uint64 // how many of them were taken
}

// put adds all of p, or nothing where there is no room for it. waiting is how much
// there was to take right after: len(p) or less if the other side may have seen
// nothing left before.
func (r *ring) put(p []byte) (waiting int, ok bool) {
	head, size := r.head.Load(), uint64(len(r.bytes))
	if size-(head-r.tail.Load()) < uint64(len(p)) {
		return 0, false
	}
	n := copy(r.bytes[head%size:], p)
	copy(r.bytes, p[n:])
	head += uint64(len(p))
	r.head.Store(head)
	return int(head - r.tail.Load()), true
}

// next returns bytes to take, at most limit, and nothing where there are none. They
// stay until taken.
func (r *ring) next(limit int) []byte {
	tail, size := r.tail.Load(), uint64(len(r.bytes))
	n := min(r.head.Load()-tail, uint64(limit))
	from := tail % size
	return r.bytes[from:min(from+n, size)]
}

// taken makes room of the first n bytes.
func (r *ring) taken(n int) { r.tail.Add(uint64(n)) }
