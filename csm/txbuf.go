package csm

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// TxBuf holds bytes of a stream from the guest that wait for a host socket. It
// takes memory only while it holds bytes. The zero TxBuf is empty.
type TxBuf struct {
	chain chain
	n     int
}

// Len returns how many bytes wait.
func (t *TxBuf) Len() int { return t.n }

// AppendFrom copies the guest memory ranges [from, to) of bufs behind what waits.
func (t *TxBuf) AppendFrom(p *Pool, bufs *guestmem.Buffers, from, to int) {
	for left := int(bufs.Bytes(from, to)); left > 0; {
		n := bufs.CopyOut(from, to, t.chain.room(p, 1))
		bufs.Skip(from, to, uint64(n))
		t.chain.tail.w += n
		t.n += n
		left -= n
	}
}

// WriteTo writes what waits to the non-blocking socket fd until nothing is left
// or the socket takes no more, and returns how many bytes left. The error is a
// syscall.Errno, unix.EAGAIN when the socket is full.
func (t *TxBuf) WriteTo(p *Pool, fd int) (written int, err error) {
	for t.chain.head != nil {
		c := t.chain.head
		n, err := writeRetry(fd, c.b[c.r:c.w])
		if err != nil {
			return written, err
		}
		written += n
		t.n -= n
		if c.r += n; c.r == c.w {
			t.chain.drop(p)
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

// Release gives up whatever waits and returns how many bytes that was.
func (t *TxBuf) Release(p *Pool) (lost int) {
	lost, t.n = t.n, 0
	t.chain.release(p)
	return lost
}
