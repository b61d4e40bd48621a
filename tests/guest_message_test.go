package tests

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// messageConversations are those on SOCK_SEQPACKET sockets. A name in brackets is that
// of the kernel's own test (tools/testing/vsock) that does the same.
var messageConversations = []conversation{
	{"messages of every size", messagesOfEverySize},
	{"empty messages", emptyMessages},
	{"bounds in a large window (SEQPACKET msg bounds)", messageBounds},
	{"small and large guest windows for messages", messageWindows},
	{"a window that changes", changingWindow},
	{"too large for the host (SEQPACKET big message)", tooLargeForHost},
	{"too large for the guest", tooLargeForGuest},
	{"a buffer too short (SEQPACKET MSG_TRUNC)", truncatedMessage},
	{"no message in time (SEQPACKET timeout)", messageTimeout},
	{"unwritable buffers (SEQPACKET invalid receive buffer, test invalid buffer)", unwritableBuffer},
	{"a look ahead (SEQPACKET MSG_PEEK)", peekedMessage},
	{"without copies (SEQPACKET MSG_ZEROCOPY)", zeroCopy},
	{"unsent bytes (SEQPACKET ioctl(SIOCOUTQ) 0 unsent bytes)", unsentBytes},
	{"unread bytes (SEQPACKET ioctl(SIOCINQ) functionality)", unreadBytes},
	{"half-close by the host with messages", messagesHalfCloseByHost},
	{"half-close by the guest with messages", messagesHalfCloseByGuest},
	{"last messages", lastMessages},
	{"many small messages both ways at once", manySmallMessages},
	{"100 connections with messages at once", manyWithMessages},
	{"a guest that does not read messages", messagesToStalledGuest},
	{"a host program that does not read messages", messagesToStalledHost},
	{"messages to and from nobody", messagesToNobody},
	{"a socket of the other type", otherType},
}

// sizes lie about the limits on the way: a receive buffer of the guest's (3732 bytes),
// a packet (64 KiB), what AF_UNIX takes by default, and the window.
var sizes = []int{1, 3732, 3733, 64*kib - 1, 64 * kib, 64*kib + 1, 212960, script.MaxMessage}

// repeat is n messages of one size.
func repeat(n, size int) []int { return slices.Repeat([]int{size}, n) }

func sending(seed byte, sizes ...int) script.Step {
	return script.Step{Do: script.SendMessages, Seed: seed, Sizes: sizes}
}

func receiving(n int) script.Step { return script.Step{Do: script.ReceiveMessages, Count: n} }

var drainingMessages = script.Step{Do: script.DrainMessages}

// onBothSides has the host make a connection, then the guest, with the same steps.
func (l lab) onBothSides(t *testing.T, host, guest []script.Step) {
	t.Helper()
	h, g := l.fromHost(t, host, guest)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, host, guest)
	mustAgree(t, h, g)
}

// modern reports whether the guest's kernel is younger than 6.1.
func (l lab) modern(t *testing.T) bool {
	t.Helper()
	return !strings.HasPrefix(l.call(t, script.Request{Op: script.Hello}).Kernel, "6.1.")
}

// failed is what a call on messages returns that fails in the guest's transport: Linux
// 6.1 has one number for all that can go wrong there.
func (l lab) failed(t *testing.T, errno syscall.Errno) script.Call {
	t.Helper()
	if !l.modern(t) {
		errno = syscall.ENOMEM
	}
	return script.Call{Errno: errno}
}

// mustReturn compares what system calls returned with what they had to, but for flags
// and sums.
func mustReturn(t *testing.T, calls []script.Call, want ...script.Call) {
	t.Helper()
	got := slices.Clone(calls)
	for i := range got {
		got[i].Flags, got[i].Sum = 0, ""
	}
	if !slices.Equal(got, want) {
		t.Errorf("calls returned %+v, want %+v", got, want)
	}
}

func messagesOfEverySize(t *testing.T, l lab) {
	l.onBothSides(t,
		[]script.Step{sending(1, sizes...), receiving(len(sizes)), {Do: script.CloseWrite}, drainingMessages},
		[]script.Step{receiving(len(sizes)), sending(2, sizes...), drainingMessages})
}

// A Linux guest sends no empty messages: its sendmsg(2) does nothing then.
func emptyMessages(t *testing.T, l lab) {
	some := []int{0, 1, 0, 0, 3733, 0, 64 * kib, 0, 1}
	l.onBothSides(t, []script.Step{sending(3, some...), receiving(1)}, []script.Step{receiving(len(some)), sending(4, 1)})
}

// The host sends more than a usual window holds before the guest reads any of it. What
// marks the end of a record (MSG_EOR) does not cross: AF_UNIX has no such mark.
func messageBounds(t *testing.T, l lab) {
	const window = 2 * mib
	var random []int
	for i, b := range bytesOf(128) {
		random = append(random, 1+(i%2)*12*kib+int(b)*16)
	}
	port := newPort()
	l.call(t, script.Request{
		Op: script.Listen, Seqpacket: true, Port: port, BufferSize: window,
		Steps: []script.Step{
			{Do: script.Wait, Gate: t.Name()}, receiving(len(random)),
			{Do: script.SendMessages, Seed: 6, Sizes: random, Flags: unix.MSG_EOR}, sending(7, 1, 2), drainingMessages,
		},
	})
	c := l.dial(t, port)
	sent := script.Run(keepOpen{c}, []script.Step{sending(5, random...)}, nil)
	l.call(t, script.Request{Op: script.Open, Gate: t.Name()})
	back := script.Run(c, []script.Step{receiving(len(random) + 2)}, nil)
	g := l.reports(t, port, 1)[0].Report
	mustAgree(t, sent, script.Report{Received: g.Received, ReceivedSum: g.ReceivedSum, ReceivedMessages: g.ReceivedMessages, SentSum: sent.ReceivedSum})
	back.Sent, back.SentSum, back.SentMessages = sent.Sent, sent.SentSum, sent.SentMessages
	mustAgree(t, back, g)
	if back.ReceivedEOR > 0 || g.ReceivedEOR > 0 {
		t.Errorf("MSG_EOR crossed %d times", back.ReceivedEOR+g.ReceivedEOR)
	}
}

func messageWindows(t *testing.T, l lab) {
	for _, window := range []int{8 * kib, mib} {
		some := []int{1, 3733, 8*kib - 1, 8 * kib, 1000, 8 * kib}
		if window == mib {
			some = sizes
		}
		port := newPort()
		l.call(t, script.Request{
			Op: script.Listen, Seqpacket: true, Port: port, BufferSize: uint64(window),
			Steps: []script.Step{{Do: script.EchoMessages}},
		})
		h := script.Run(l.dial(t, port), []script.Step{{Do: script.DuplexMessages, Seed: 8, Sizes: some}}, nil)
		mustAgree(t, h, l.reports(t, port, 1)[0].Report)
	}
}

// The guest makes its window smaller than what it has received, then larger. It tells
// so at once: whoever got its next message knows.
func changingWindow(t *testing.T, l lab) {
	resize := func(n int64) []script.Step {
		return []script.Step{
			{Do: script.SetOption, Level: unix.AF_VSOCK, Name: unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, Bytes: n},
			{Do: script.SetOption, Level: unix.AF_VSOCK, Name: unix.SO_VM_SOCKETS_BUFFER_SIZE, Bytes: n},
		}
	}
	host := []script.Step{
		sending(9, 64*kib), receiving(1),
		sending(10, 4*kib, 4*kib-1, 1, 4*kib), receiving(1),
		sending(11, script.MaxMessage), receiving(1),
	}
	guest := slices.Concat(
		[]script.Step{receiving(1)}, resize(4*kib), []script.Step{sending(12, 1), receiving(4)},
		resize(512*kib), []script.Step{sending(13, 1), receiving(1), sending(14, 1)})
	h, g := l.fromHost(t, host, guest)
	mustAgree(t, h, g)
	mustReturn(t, g.Calls, make([]script.Call, 4)...)
	h, g = l.fromGuest(t, host, guest)
	mustAgree(t, h, g)
	mustReturn(t, g.Calls, make([]script.Call, 4)...)
}

// What exceeds the window that the device offers fails in the guest, whatever window
// of its own the guest has.
func tooLargeForHost(t *testing.T, l lab) {
	for _, window := range []uint64{0, 4 * mib} {
		port, from := l.listen(t)
		wait := l.callLater(script.Request{
			Op: script.Dial, Seqpacket: true, Port: port, BufferSize: window,
			Steps: []script.Step{{Do: script.SendMsg, Bytes: script.MaxMessage + 1}, sending(15, script.MaxMessage)},
		})
		h := script.Run(accept(t, from), []script.Step{drainingMessages}, nil)
		a := wait()
		if a.err != nil {
			t.Fatal(a.err)
		}
		mustAgree(t, h, a.Reports[0].Report)
		mustReturn(t, a.Reports[0].Calls, l.failed(t, syscall.EMSGSIZE))
	}
}

// What exceeds the guest's window, or that of any connection, could never arrive: it
// ends the connection.
func tooLargeForGuest(t *testing.T, l lab) {
	for _, c := range []struct{ window, largest int }{
		{0, script.MaxMessage}, {mib, script.MaxMessage}, {8 * kib, 8 * kib},
	} {
		resets := l.resets(t, "message_size")
		port := newPort()
		l.call(t, script.Request{
			Op: script.Listen, Seqpacket: true, Port: port, BufferSize: uint64(c.window),
			Steps: []script.Step{drainingMessages},
		})
		conn := l.dial(t, port)
		h := script.Run(keepOpen{conn}, []script.Step{sending(16, c.largest, 1, c.largest)}, nil)
		mustWrite(t, conn, make([]byte, c.largest+1))
		mustEnd(t, conn)
		g := l.reports(t, port, 1)[0].Report
		mustAgree(t, h, g)
		if n := l.resets(t, "message_size"); n != resets+1 {
			t.Errorf("window %d: %d resets for the size of a message, want 1", c.window, n-resets)
		}
	}
}

// resets returns how many connections the daemon reset for a reason.
func (l lab) resets(t *testing.T, reason string) int {
	t.Helper()
	return int(l.Scrape(t).Sum("vhost_user_vsock_resets_total", `reason="`+reason+`"`))
}

func truncatedMessage(t *testing.T, l lab) {
	const whole, part = 32, 16
	_, g := l.fromHost(t,
		[]script.Step{sending(17, whole), sending(18, whole), sending(19, whole), receiving(1)},
		[]script.Step{
			{Do: script.RecvMsg, Bytes: part, Flags: unix.MSG_TRUNC}, {Do: script.RecvMsg, Bytes: part},
			{Do: script.RecvMsg, Bytes: whole}, sending(20, 1),
		})
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
	mustReturn(t, g.Calls, script.Call{N: whole}, script.Call{N: part}, script.Call{N: whole})
	for i, truncated := range []bool{true, true, false} {
		if got := g.Calls[i].Flags&unix.MSG_TRUNC != 0; got != truncated {
			t.Errorf("message %d: MSG_TRUNC is %v", i, got)
		}
	}
	if g.Calls[2].Sum != script.Sum(19, whole) {
		t.Error("the message behind those that were cut arrived changed")
	}
}

func messageTimeout(t *testing.T, l lab) {
	h, g := l.fromHost(t, []script.Step{receiving(1), sending(21, 5)}, []script.Step{
		{Do: script.RecvMsg, Bytes: 64, Timeout: 50e6}, sending(22, 1), receiving(1),
	})
	mustAgree(t, h, g)
	mustReturn(t, g.Calls, script.Call{Errno: syscall.EAGAIN})
}

// A message that cannot be written to its reader's buffer is lost, as a whole.
func unwritableBuffer(t *testing.T, l lab) {
	const long, short = 3 * page, 512
	_, g := l.fromHost(t,
		[]script.Step{sending(23, long), sending(24, long), receiving(1), sending(25, short), receiving(1)},
		[]script.Step{
			{Do: script.RecvMsg, Bytes: long, Hole: 2}, {Do: script.RecvMsg, Bytes: long}, sending(26, 1),
			{Do: script.RecvMsg, Bytes: short, Hole: 1}, {Do: script.RecvMsg, Bytes: short, Flags: unix.MSG_DONTWAIT}, sending(27, 1),
		})
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
	fault := l.failed(t, syscall.EFAULT)
	mustReturn(t, g.Calls, fault, script.Call{N: long}, fault, script.Call{Errno: syscall.EAGAIN})
	if g.Calls[1].Sum != script.Sum(24, long) {
		t.Error("the message behind the lost one arrived changed")
	}
}

func peekedMessage(t *testing.T, l lab) {
	const whole = 64
	peek := script.Step{Do: script.RecvMsg, Bytes: whole, Flags: unix.MSG_PEEK}
	_, g := l.fromHost(t, []script.Step{sending(28, whole), receiving(1)}, []script.Step{
		peek, peek, {Do: script.RecvMsg, Bytes: whole}, {Do: script.RecvMsg, Bytes: whole, Flags: unix.MSG_DONTWAIT}, sending(29, 1),
	})
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
	seen := script.Call{N: whole}
	if !l.modern(t) { // cannot do it
		seen = l.failed(t, syscall.EOPNOTSUPP)
	}
	mustReturn(t, g.Calls, seen, seen, script.Call{N: whole}, script.Call{Errno: syscall.EAGAIN})
	if g.Calls[2].Sum != script.Sum(28, whole) {
		t.Error("the message arrived changed")
	}
}

// Payload in many pieces at odd addresses, which Linux puts into the tx ring as they
// lie; it is told when the device is done with them.
func zeroCopy(t *testing.T, l lab) {
	enable := script.Step{Do: script.SetOption, Level: unix.SOL_SOCKET, Name: unix.SO_ZEROCOPY, Bytes: 1}
	if !l.modern(t) { // cannot do it
		_, g := l.fromHost(t, nil, []script.Step{enable})
		if len(g.Calls) != 1 || g.Calls[0].Errno == 0 {
			t.Errorf("calls returned %+v, want an error", g.Calls)
		}
		return
	}
	for i, c := range []struct {
		bytes  int64
		pieces int
	}{{200, 3}, {3 * page, 1}, {3*page + 200, 3}, {192 * kib, 7}, {script.MaxMessage, 1}} {
		seed := byte(30 + i)
		h, g := l.fromGuest(t, []script.Step{receiving(1), sending(1, 1)}, []script.Step{
			enable, {Do: script.SendMsg, Bytes: c.bytes, Pieces: c.pieces, Seed: seed, Flags: unix.MSG_ZEROCOPY},
			{Do: script.Completion}, receiving(1),
		})
		if err := errors.Join(h.Err(), g.Err()); err != nil {
			t.Fatal(err)
		}
		mustReturn(t, g.Calls, script.Call{}, script.Call{N: int(c.bytes)}, script.Call{N: 1})
		if !slices.Equal(h.ReceivedMessages, []int{int(c.bytes)}) || h.ReceivedSum != script.Sum(seed, c.bytes) {
			t.Errorf("%d bytes in %d pieces: messages of %v bytes arrived, or other ones", c.bytes, c.pieces, h.ReceivedMessages)
		}
	}
}

// dialNow has the guest connect and run all its steps before the host accepts.
func (l lab) dialNow(t *testing.T, port uint32, steps ...script.Step) script.Report {
	t.Helper()
	resp := l.call(t, script.Request{Op: script.Dial, Seqpacket: l.seqpacket, Port: port, Steps: steps})
	if err := resp.Reports[0].Err(); err != nil {
		t.Fatalf("in the guest: %v", err)
	}
	return resp.Reports[0].Report
}

// The device gives packets back before the host program reads them.
func unsentBytes(t *testing.T, l lab) {
	port, from := l.listen(t)
	g := l.dialNow(t, port, sending(40, 64), script.Step{Do: script.Ioctl, Name: unix.SIOCOUTQ})
	h := script.Run(accept(t, from), []script.Step{drainingMessages}, nil)
	mustAgree(t, h, g)
	mustAnswer(t, l, g.Calls, 0)
}

func unreadBytes(t *testing.T, l lab) {
	h, g := l.fromHost(t, []script.Step{sending(41, 64), receiving(1)}, []script.Step{
		{Do: script.Ioctl, Name: unix.SIOCINQ, Bytes: 64}, receiving(1), sending(42, 1),
	})
	mustAgree(t, h, g)
	mustAnswer(t, l, g.Calls, 64)
}

// mustAnswer wants an ioctl to have returned n, where the guest's kernel has it.
func mustAnswer(t *testing.T, l lab, calls []script.Call, n int) {
	t.Helper()
	if len(calls) == 1 && (calls[0].Errno == syscall.EOPNOTSUPP || calls[0].Errno == syscall.ENOTTY) {
		t.Logf("%s does not have it", l.name)
		return
	}
	mustReturn(t, calls, script.Call{N: n})
}

// What closedFirst and closedLast do with bytes, done with messages.
var (
	messagesClosedFirst = []script.Step{sending(43, 1, 70*kib, 3000), {Do: script.CloseWrite}, drainingMessages}
	messagesClosedLast  = []script.Step{drainingMessages, sending(44, slices.Concat(sizes, sizes)...)}
)

func messagesHalfCloseByHost(t *testing.T, l lab) {
	l.onBothSides(t, messagesClosedFirst, messagesClosedLast)
}

func messagesHalfCloseByGuest(t *testing.T, l lab) {
	l.onBothSides(t, messagesClosedLast, messagesClosedFirst)
}

// Who closes right behind its messages has them delivered all the same.
func lastMessages(t *testing.T, l lab) {
	words := sending(45, 3000, 64*kib, 1, 100*kib)
	port := l.serve(t, script.Step{Do: script.Wait, Gate: t.Name()}, drainingMessages)
	h := script.Run(l.dial(t, port), []script.Step{words}, nil)
	l.call(t, script.Request{Op: script.Open, Gate: t.Name()})
	mustAgree(t, h, l.reports(t, port, 1)[0].Report)

	port, from := l.listen(t)
	g := l.dialNow(t, port, words)
	h = script.Run(accept(t, from), []script.Step{drainingMessages}, nil)
	mustAgree(t, h, g)
}

func manySmallMessages(t *testing.T, l lab) {
	var small []int
	for i := range l.less(4000) {
		small = append(small, 1+i%200)
	}
	l.onBothSides(t,
		[]script.Step{{Do: script.DuplexMessages, Seed: 46, Sizes: small}},
		[]script.Step{{Do: script.DuplexMessages, Seed: 47, Sizes: small}})
}

func manyWithMessages(t *testing.T, l lab) {
	const count = 100
	port := l.serve(t, script.Step{Do: script.EchoMessages})
	conns := make([]*net.UnixConn, count)
	for i := range conns {
		conns[i] = l.dial(t, port)
	}
	each(conns, func(c *net.UnixConn) {
		h := script.Run(c, []script.Step{{Do: script.DuplexMessages, Seed: 48, Sizes: []int{1, 5000, 70 * kib}}}, nil)
		if h.Err() != nil || h.ReceivedSum != h.SentSum || !slices.Equal(h.ReceivedMessages, h.SentMessages) {
			t.Errorf("host: %v, messages of %v bytes back", h.Err(), h.ReceivedMessages)
		}
	})
	for i, g := range l.reports(t, port, count) {
		if g.Err() != nil {
			t.Errorf("guest, connection %d: %v", i, g.Err())
		}
	}
}

// stalled is more than all buffers on the way hold.
var stalled = repeat(stalledSize/(64*kib), 64*kib)

func messagesToStalledGuest(t *testing.T, l lab) {
	port := l.serve(t, script.Step{Do: script.Wait, Gate: t.Name()}, drainingMessages)
	c := l.dial(t, port)
	sent := background(func() script.Report { return script.Run(c, []script.Step{sending(49, stalled...)}, nil) })
	l.mustWork(t)
	l.call(t, script.Request{Op: script.Open, Gate: t.Name()})
	mustAgree(t, sent(), l.reports(t, port, 1)[0].Report)
}

func messagesToStalledHost(t *testing.T, l lab) {
	port, from := l.listen(t)
	wait := l.callLater(script.Request{Op: script.Dial, Seqpacket: true, Port: port, Steps: []script.Step{sending(50, stalled...)}})
	c := accept(t, from)
	l.mustWork(t)
	h := script.Run(c, []script.Step{drainingMessages}, nil)
	a := wait()
	if a.err != nil {
		t.Fatal(a.err)
	}
	mustAgree(t, h, a.Reports[0].Report)
}

// Ports where nobody listens refuse at once.
func messagesToNobody(t *testing.T, l lab) {
	resp := l.call(t, script.Request{Op: script.Dial, Seqpacket: true, Port: newPort()})
	if r := resp.Reports[0]; r.Errno != syscall.ECONNRESET {
		t.Errorf("connect in the guest: %v, want ECONNRESET", r.Err())
	}
	l.mustRefuse(t, newPort())
}

// mustRefuse wants the guest to refuse a connection of the host.
func (l lab) mustRefuse(t *testing.T, port uint32) {
	t.Helper()
	c, err := l.connect(port)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("connect to the guest: %v, want end of file", err)
	}
}

// A listener of one type is nobody to those of the other.
func otherType(t *testing.T, l lab) {
	for _, seqpacket := range []bool{false, true} {
		l.seqpacket = seqpacket
		port, _ := l.listen(t)
		resp := l.call(t, script.Request{Op: script.Dial, Seqpacket: !seqpacket, Port: port})
		if r := resp.Reports[0]; r.Errno != syscall.ECONNRESET {
			t.Errorf("connect in the guest: %v, want ECONNRESET", r.Err())
		}
		port = l.serve(t)
		l.seqpacket = !seqpacket
		l.mustRefuse(t, port)
	}
}
