package csm

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

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

// Pool hands out the memory of TxBufs. The zero Pool is ready. It is confined to
// one goroutine.
type Pool struct {
	free  *chunk
	spare int
	held  int64
}

// Held returns how many bytes of memory are in use by TxBufs.
func (p *Pool) Held() int64 { return p.held }

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

// TxBuf holds bytes from the guest that wait for a host socket. It takes memory
// only while it holds bytes. The zero TxBuf is empty.
type TxBuf struct {
	head, tail *chunk
	n          int
}

// Len returns how many bytes wait.
func (t *TxBuf) Len() int { return t.n }

// AppendFrom copies the guest memory ranges [from, to) of bufs behind what waits.
func (t *TxBuf) AppendFrom(p *Pool, bufs *guestmem.Buffers, from, to int) {
	for left := int(bufs.Bytes(from, to)); left > 0; {
		room := t.room(p)
		n := bufs.CopyOut(from, to, room)
		bufs.Skip(from, to, uint64(n))
		t.tail.w += n
		t.n += n
		left -= n
	}
}

func (t *TxBuf) room(p *Pool) []byte {
	if t.tail == nil || t.tail.w == ChunkSize {
		c := p.take()
		if t.tail == nil {
			t.head = c
		} else {
			t.tail.next = c
		}
		t.tail = c
	}
	return t.tail.b[t.tail.w:]
}

// WriteTo writes what waits to the non-blocking socket fd until nothing is left
// or the socket takes no more, and returns how many bytes left. The error is a
// syscall.Errno, unix.EAGAIN when the socket is full.
func (t *TxBuf) WriteTo(p *Pool, fd int) (written int, err error) {
	for t.head != nil {
		c := t.head
		n, err := writeRetry(fd, c.b[c.r:c.w])
		if err != nil {
			return written, err
		}
		written += n
		t.n -= n
		if c.r += n; c.r == c.w {
			t.drop(p)
		}
	}
	return written, nil
}

func writeRetry(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (t *TxBuf) drop(p *Pool) {
	c := t.head
	if t.head = c.next; t.head == nil {
		t.tail = nil
	}
	p.give(c)
}

// Release gives up whatever waits and returns how many bytes that was.
func (t *TxBuf) Release(p *Pool) (lost int) {
	lost = t.n
	for t.head != nil {
		t.drop(p)
	}
	t.n = 0
	return lost
}
