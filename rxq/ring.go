package rxq

// ring is a first-in first-out lane of fixed size.
type ring[T any] struct {
	slots []T
	head  int // slot of the oldest item
	n     int // items held
}

func (r *ring[T]) full() bool { return r.n == len(r.slots) }

// slot returns the slot of the i-th item from the oldest; i may be r.n unless
// the ring is full.
func (r *ring[T]) slot(i int) *T {
	if i += r.head; i >= len(r.slots) {
		i -= len(r.slots)
	}
	return &r.slots[i]
}

func (r *ring[T]) push(v T) bool {
	if r.full() {
		return false
	}
	*r.slot(r.n) = v
	r.n++
	return true
}

func (r *ring[T]) pop() (v T, ok bool) {
	if r.n == 0 {
		return v, false
	}
	oldest := r.slot(0)
	v, *oldest = *oldest, v // the zero value: a pointer left behind would keep its object alive
	if r.head++; r.head == len(r.slots) {
		r.head = 0
	}
	r.n--
	return v, true
}

func (r *ring[T]) clear() {
	clear(r.slots)
	r.head, r.n = 0, 0
}
