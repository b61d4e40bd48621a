package script

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Call is what one system call returned: a number, or an error.
type Call struct {
	N     int           `json:"n"`
	Flags int           `json:"flags,omitempty"` // MSG_* that recvmsg(2) gave back
	Sum   string        `json:"sum,omitempty"`   // sha256 of what it received, hex
	Errno syscall.Errno `json:"errno,omitempty"`
}

// calls is a socket for system calls that Go's methods do not offer. They wait in
// Go's poller, unless MSG_DONTWAIT forbids it; on a blocking socket, sendmsg(2) waits
// in the kernel.
type calls struct{ syscall.RawConn }

func (r *runner) calls() (calls, error) {
	c, ok := r.conn.(syscall.Conn)
	if !ok {
		return calls{}, errors.New("not a socket of the kernel")
	}
	rc, err := c.SyscallConn()
	return calls{rc}, err
}

// message is what one recvmsg(2) returned.
type message struct {
	n       int // bytes, which with MSG_TRUNC may be more than fit
	flags   int
	labeled bool // it came with control data, which the end of file never does (SO_PASSCRED)
}

func (m message) end() bool { return m.n == 0 && !m.labeled }

func (c calls) receive(p []byte, flags int) (m message, err error) {
	for {
		var result error
		err = c.Read(func(fd uintptr) bool {
			m, result = receiveNow(int(fd), p, flags|unix.MSG_DONTWAIT)
			return result != unix.EAGAIN || flags&unix.MSG_DONTWAIT != 0
		})
		if !pollerGivesUp(err) {
			return m, errors.Join(err, result)
		}
		time.Sleep(settleTick)
	}
}

// pollerGivesUp reports whether Go's poller takes a socket for a broken one, because
// a completion of MSG_ZEROCOPY in its error queue is all that epoll has told of it.
func pollerGivesUp(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), "not pollable")
}

func receiveNow(fd int, p []byte, flags int) (message, error) {
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, got, _, err := unix.Recvmsg(fd, p, oob, flags)
		if err != unix.EINTR {
			return message{n: n, flags: got, labeled: oobn > 0}, err
		}
	}
}

func (c calls) send(pieces [][]byte, flags int) (n int, err error) {
	var result error
	err = c.Write(func(fd uintptr) bool {
		n, result = sendNow(int(fd), pieces, flags)
		return result != unix.EAGAIN || flags&unix.MSG_DONTWAIT != 0
	})
	return n, errors.Join(err, result)
}

// preemption is the signal SIGURG.
var preemption = unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGURG - 1)}}

// sendNow keeps the signals away by which Go preempts a goroutine: where one interrupts
// a vsock socket that waits for credit within a message, Linux forgets how much of it
// is sent, and sends it all again.
func sendNow(fd int, pieces [][]byte, flags int) (n int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &preemption, &before); err != nil {
		return 0, err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	for {
		n, err = unix.SendmsgBuffers(fd, pieces, nil, nil, flags|unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// tellsEmpty reports whether the socket tells an empty message from the end of file.
func (c calls) tellsEmpty() bool {
	on := 0
	c.Control(func(fd uintptr) { on, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED) })
	return on == 1
}

// noted notes what a call returned; a failure is a result, too.
func (r *runner) noted(c Call, err error) error {
	if err != nil && !errors.As(err, &c.Errno) {
		return err
	}
	r.report.Calls = append(r.report.Calls, c)
	return nil
}

// recvMsg calls recvmsg(2) once.
func (r *runner) recvMsg(s Step) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	p, free, err := buffer(s.Bytes, s.Hole)
	if err != nil {
		return err
	}
	defer free()
	var m message
	if s.Timeout == 0 {
		m, err = c.receive(p, s.Flags)
	} else {
		m, err = c.receiveBlocking(p, s.Flags, s.Timeout)
	}
	if err != nil {
		return r.noted(Call{}, err)
	}
	sum := sha256.Sum256(p[:min(m.n, len(p))])
	return r.noted(Call{N: m.n, Flags: m.flags, Sum: hex.EncodeToString(sum[:])}, nil)
}

// receiveBlocking has the kernel do the waiting, at most for SO_RCVTIMEO. The socket
// stays a blocking one.
func (c calls) receiveBlocking(p []byte, flags int, timeout time.Duration) (m message, err error) {
	var result error
	err = c.Control(func(fd uintptr) {
		tv := unix.NsecToTimeval(timeout.Nanoseconds())
		result = errors.Join(
			unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.SetNonblock(int(fd), false))
		if result == nil {
			m, result = receiveNow(int(fd), p, flags)
		}
	})
	return m, errors.Join(err, result)
}

// sendMsg calls sendmsg(2) once, with the bytes in s.Pieces pieces of about the same
// length at odd addresses.
func (r *runner) sendMsg(s Step) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	p, free, err := buffer(s.Bytes+1, s.Hole)
	if err != nil {
		return err
	}
	defer free()
	p = p[1:]
	if s.Hole == 0 {
		pattern(s.Seed).Read(p)
	}
	var pieces [][]byte
	for n := max(1, s.Pieces); n > 0; n-- {
		cut := len(p) / n
		pieces = append(pieces, p[:cut])
		p = p[cut:]
	}
	n, err := c.send(pieces, s.Flags)
	return r.noted(Call{N: n}, err)
}

// setOption sets a socket option: 64 bits wide where it is one of AF_VSOCK's.
func (r *runner) setOption(s Step) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	var result error
	err = c.Control(func(fd uintptr) {
		if s.Level == unix.AF_VSOCK {
			result = unix.SetsockoptUint64(int(fd), s.Level, s.Name, uint64(s.Bytes))
		} else {
			result = unix.SetsockoptInt(int(fd), s.Level, s.Name, int(s.Bytes))
		}
	})
	return r.noted(Call{}, errors.Join(err, result))
}

// settleLimit bounds the waits for what cannot be waited for, and settleTick is the
// pause between two looks at it.
const (
	settleLimit = 30 * time.Second
	settleTick  = 2 * time.Millisecond
)

// ioctl asks until the answer is s.Bytes, or there is none.
func (r *runner) ioctl(s Step) error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(settleTick) {
		var n int
		var result error
		err := c.Control(func(fd uintptr) { n, result = unix.IoctlGetInt(int(fd), uint(s.Name)) })
		if err != nil {
			return err
		}
		if result != nil || int64(n) == s.Bytes || time.Now().After(deadline) {
			return r.noted(Call{N: n}, result)
		}
	}
}

// completion takes a completion of MSG_ZEROCOPY from the error queue: N sends are done.
func (r *runner) completion() error {
	c, err := r.calls()
	if err != nil {
		return err
	}
	oob := make([]byte, 256)
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(settleTick) {
		var n int
		var result error
		err := c.Control(func(fd uintptr) {
			_, n, _, _, result = unix.Recvmsg(int(fd), nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		})
		switch {
		case err != nil:
			return err
		case result == nil:
			done, err := completed(oob[:n])
			return r.noted(Call{N: done}, err)
		case result != unix.EAGAIN && result != unix.EINTR || time.Now().After(deadline):
			return r.noted(Call{}, result)
		}
	}
}

// completed reads a struct sock_extended_err of vsock and returns how many sends it
// tells of.
func completed(oob []byte) (int, error) {
	const vsockRecvErr, offOrigin, offInfo, offData = 1, 4, 8, 12 // linux/vm_sockets.h, linux/errqueue.h
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_VSOCK && m.Header.Type == vsockRecvErr && m.Data[offOrigin] == unix.SO_EE_ORIGIN_ZEROCOPY {
			first, last := binary.NativeEndian.Uint32(m.Data[offInfo:]), binary.NativeEndian.Uint32(m.Data[offData:])
			return int(last-first) + 1, nil
		}
	}
	return 0, fmt.Errorf("no completion in %x", oob)
}

// pageSize is that of every guest here, and of the host.
const pageSize = 4096

// buffer returns n bytes of memory of their own; the page with number hole, from 1,
// cannot be touched, and hole 0 is none.
func buffer(n int64, hole int) (p []byte, free func(), err error) {
	pages := (int(n) + pageSize - 1) / pageSize
	all, err := unix.Mmap(-1, 0, max(1, pages)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, err
	}
	if hole > 0 {
		err = unix.Mprotect(all[(hole-1)*pageSize:][:pageSize], unix.PROT_NONE)
	}
	return all[:n], func() { unix.Munmap(all) }, err
}
