package csm

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// ChunkSize is the unit in bytes in which memory is taken for bytes that a host
// socket does not accept yet.
const ChunkSize = 16 << 10

// maxSpare is how many bytes of unused chunks a pool keeps for the next stall.
const maxSpare = 4 << 20

type chunk struct {
	next *chunk
	r, w int              // bytes [r, w) wait
	b    *[ChunkSize]byte // of its own, for it fills a size class of the allocator
}

// Pool hands out the memory of TxBufs and MessageBufs. The zero Pool is ready. It
// is confined to one goroutine.
type Pool struct {
	free  *chunk
	spare int
	held  int64
	begun int64            // of held, what messages take whose end has not come
	send  guestmem.Buffers // where a message is gathered that leaves
}

// Held returns how many bytes of memory are in use.
func (p *Pool) Held() int64 { return p.held }

// Begun returns how many of the bytes that are held are there for messages whose
// end has not come. No host program can make room for those.
func (p *Pool) Begun() int64 { return p.begun }

func (p *Pool) take() *chunk {
	p.held += ChunkSize
	c := p.free
	if c == nil {
		return &chunk{b: new([ChunkSize]byte)}
	}
	p.free, p.spare = c.next, p.spare-ChunkSize
	c.next, c.r, c.w = nil, 0, 0
	return c
}

func (p *Pool) give(c *chunk) {
	p.held -= ChunkSize
	if p.spare < maxSpare {
		c.next, p.free, p.spare = p.free, c, p.spare+ChunkSize
	}
}

// chain is a list of chunks, the oldest bytes first.
type chain struct{ head, tail *chunk }

// room returns memory behind what waits, of at least n bytes.
//
// Preconditions: 0 < n <= ChunkSize.
func (q *chain) room(p *Pool, n int) []byte {
	if q.tail == nil || ChunkSize-q.tail.w < n {
		c := p.take()
		if q.tail == nil {
			q.head = c
		} else {
			q.tail.next = c
		}
		q.tail = c
	}
	return q.tail.b[q.tail.w:]
}

// drop gives the oldest chunk back.
func (q *chain) drop(p *Pool) {
	c := q.head
	if q.head = c.next; q.head == nil {
		q.tail = nil
	}
	p.give(c)
}

func (q *chain) release(p *Pool) {
	for q.head != nil {
		q.drop(p)
	}
}
