package script

import (
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// end is one of two connected SOCK_SEQPACKET sockets.
type end struct{ *os.File }

func (e end) CloseRead() error  { return e.shutdown(unix.SHUT_RD) }
func (e end) CloseWrite() error { return e.shutdown(unix.SHUT_WR) }

func (e end) shutdown(how int) (err error) {
	rc, err := e.SyscallConn()
	if err == nil {
		rc.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), how) })
	}
	return err
}

func pair(t *testing.T) (ends [2]end) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal("socketpair:", err)
	}
	for i, fd := range fds {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, MaxMessage)
		ends[i] = end{os.NewFile(uintptr(fd), "seqpacket")}
	}
	return ends
}

// runBoth runs both ends' steps on a new pair.
func runBoth(t *testing.T, a, b []Step) (Report, Report) {
	t.Helper()
	ends := pair(t)
	result := make(chan Report)
	go func() { result <- Run(ends[1], b, nil) }()
	r := Run(ends[0], a, nil)
	return r, <-result
}

func TestMessages(t *testing.T) {
	sizes := []int{0, 1, 0, 70000, MaxMessage, 0}
	a, b := runBoth(t,
		[]Step{{Do: SendMessages, Seed: 1, Sizes: sizes}, {Do: ReceiveMessages, Count: 2}, {Do: CloseWrite}, {Do: DrainMessages}},
		[]Step{{Do: ReceiveMessages, Count: len(sizes)}, {Do: SendMessages, Seed: 2, Sizes: []int{1, 2}}, {Do: DuplexMessages, Seed: 3, Sizes: []int{0, 9}}})
	if a.Err() != nil || b.Err() != nil {
		t.Fatal(a.Err(), b.Err())
	}
	if !slices.Equal(b.ReceivedMessages, sizes) || b.ReceivedSum != a.SentSum || b.Received != a.Sent {
		t.Errorf("messages of %v bytes received", b.ReceivedMessages)
	}
	if !slices.Equal(a.ReceivedMessages, []int{1, 2, 0, 9}) || a.ReceivedSum != b.SentSum {
		t.Errorf("messages of %v bytes came back", a.ReceivedMessages)
	}
}

// An end of file where a message was due is a failure, and so is a message that does
// not fit.
func TestMessagesMissing(t *testing.T) {
	a, b := runBoth(t, []Step{{Do: ReceiveMessages, Count: 2}}, []Step{{Do: SendMessages, Sizes: []int{0}}})
	if a.Err() == nil || b.Err() != nil || !slices.Equal(a.ReceivedMessages, []int{0}) {
		t.Errorf("%v after messages of %v bytes", a.Err(), a.ReceivedMessages)
	}
	a, b = runBoth(t, []Step{{Do: DrainMessages}}, []Step{{Do: SendMessages, Sizes: []int{MaxMessage + 1}}})
	if a.Err() == nil || b.Err() != nil {
		t.Errorf("%v, %v", a.Err(), b.Err())
	}
}

func TestCalls(t *testing.T) {
	a, b := runBoth(t,
		[]Step{
			{Do: RecvMsg, Bytes: 64, Timeout: 1e6},
			{Do: SendMessages, Sizes: []int{1}},
			{Do: RecvMsg, Bytes: 4, Flags: unix.MSG_PEEK | unix.MSG_TRUNC},
			{Do: RecvMsg, Bytes: 3 * pageSize, Hole: 2},
			{Do: RecvMsg, Bytes: 3 * pageSize},
			{Do: RecvMsg, Bytes: 1, Flags: unix.MSG_DONTWAIT},
			{Do: SetOption, Level: unix.SOL_SOCKET, Name: unix.SO_RCVLOWAT, Bytes: 2},
			{Do: SetOption, Level: unix.SOL_SOCKET, Name: -1},
		},
		[]Step{
			{Do: ReceiveMessages, Count: 1},
			{Do: SendMsg, Bytes: 3 * pageSize, Pieces: 5, Seed: 1},
			{Do: SendMsg, Bytes: 3 * pageSize, Hole: 2},
			{Do: SendMessages, Seed: 2, Sizes: []int{3 * pageSize}},
			{Do: ReceiveMessages},
			{Do: DrainMessages},
		})
	if a.Err() != nil || b.Err() != nil {
		t.Fatal(a.Err(), b.Err())
	}
	const n = 3 * pageSize
	for i, want := range []Call{
		{Errno: syscall.EAGAIN}, {N: n}, {Errno: syscall.EFAULT}, {N: n, Sum: Sum(2, n)}, {Errno: syscall.EAGAIN}, {}, {Errno: syscall.ENOPROTOOPT},
	} {
		got := a.Calls[i]
		got.Flags = 0
		if want.Sum == "" {
			got.Sum = ""
		}
		if got != want {
			t.Errorf("call %d returned %+v, want %+v", i, got, want)
		}
	}
	if !slices.Equal(b.Calls, []Call{{N: n}, {Errno: syscall.EFAULT}}) {
		t.Errorf("the other end's calls returned %+v", b.Calls)
	}
}
