package csm

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// lengthSize is what the length of a message takes in front of its bytes, in the
// same memory: so the many messages of few bytes, or of none, are counted too.
const lengthSize = 4

// MessageBuf holds messages from the guest that wait for a host socket, and behind
// them perhaps the beginning of one whose end has not come. It takes memory only
// while it holds any. The zero MessageBuf is empty.
type MessageBuf struct {
	chain    chain
	messages int // whole ones
	empties  int // of them, those without bytes
	n        int // bytes of the whole ones

	begun    *chunk // where the message begins whose end has not come, or nil
	lengthAt int    // where its length goes in that chunk
	begunN   int    // its bytes so far
	begunMem int64  // the chunks that hold them, in bytes
}

// Messages returns how many whole messages wait, and how many of them are empty.
func (t *MessageBuf) Messages() (all, empties int) { return t.messages, t.empties }

// Begun reports whether a message has begun whose end has not come.
func (t *MessageBuf) Begun() bool { return t.begun != nil }

// AppendFrom copies the guest memory ranges [from, to) of bufs behind what waits:
// a message, or the next piece of one, which ends with them if last.
func (t *MessageBuf) AppendFrom(p *Pool, bufs *guestmem.Buffers, from, to int, last bool) {
	if t.begun == nil {
		t.begin(p)
	}
	held := p.held
	for left := int(bufs.Bytes(from, to)); left > 0; {
		n := bufs.CopyOut(from, to, t.chain.room(p, 1))
		bufs.Skip(from, to, uint64(n))
		t.chain.tail.w += n
		t.begunN += n
		left -= n
	}
	t.charge(p, p.held-held)
	if last {
		t.end(p)
	}
}

func (t *MessageBuf) begin(p *Pool) {
	t.chain.room(p, lengthSize)
	t.begun, t.lengthAt, t.begunN = t.chain.tail, t.chain.tail.w, 0
	t.chain.tail.w += lengthSize
	t.charge(p, ChunkSize)
}

func (t *MessageBuf) end(p *Pool) {
	binary.NativeEndian.PutUint32(t.begun.b[t.lengthAt:], uint32(t.begunN))
	t.messages++
	if t.begunN == 0 {
		t.empties++
	}
	t.n += t.begunN
	t.begun = nil
	t.charge(p, -t.begunMem)
}

func (t *MessageBuf) charge(p *Pool, n int64) {
	t.begunMem += n
	p.begun += n
}

// WriteTo sends the whole messages to the non-blocking SOCK_SEQPACKET socket fd,
// one sendmsg each, until none is left or the socket takes no more, and returns
// how many bytes left. The error is unix.EAGAIN when the socket is full, else an
// *os.SyscallError.
func (t *MessageBuf) WriteTo(p *Pool, fd int) (written int, err error) {
	for t.messages > 0 {
		n := t.gather(p)
		if err := p.send.SendTo(fd, 0, p.send.Len()); err != nil {
			return written, err
		}
		t.drop(p, n)
		written += n
	}
	return written, nil
}

// gather makes p.send refer to the oldest message and returns its length.
func (t *MessageBuf) gather(p *Pool) int {
	p.send.Reset()
	c := t.chain.head
	n := int(binary.NativeEndian.Uint32(c.b[c.r:]))
	at := c.r + lengthSize
	for left := n; left > 0; c, at = c.next, 0 {
		k := min(left, c.w-at)
		p.send.AppendPrivate(c.b[at : at+k])
		left -= k
	}
	return n
}

// drop forgets the oldest message, of n bytes.
func (t *MessageBuf) drop(p *Pool, n int) {
	t.messages--
	t.n -= n
	if n == 0 {
		t.empties--
	}
	for left := lengthSize + n; left > 0; {
		c := t.chain.head
		k := min(left, c.w-c.r)
		c.r += k
		left -= k
		if c.r == c.w {
			t.chain.drop(p)
		}
	}
	if t.messages == 0 && t.begun == nil {
		t.chain.release(p) // a chunk may be left that DropBegun emptied
	}
}

// DropBegun forgets the message whose end has not come and returns how many bytes
// of it there were.
func (t *MessageBuf) DropBegun(p *Pool) (lost int) {
	if t.begun == nil {
		return 0
	}
	for c := t.begun; c.next != nil; {
		next := c.next
		c.next = next.next
		p.give(next)
	}
	t.chain.tail, t.begun.w = t.begun, t.lengthAt
	if t.messages == 0 {
		t.chain.release(p)
	}
	lost, t.begun = t.begunN, nil
	t.charge(p, -t.begunMem)
	return lost
}

// Release gives up whatever waits and returns how many bytes that was.
func (t *MessageBuf) Release(p *Pool) (lost int) {
	lost = t.DropBegun(p) + t.n
	t.messages, t.empties, t.n = 0, 0, 0
	t.chain.release(p)
	return lost
}
