package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

func TestEndReasons(t *testing.T) {
	syscall := os.NewSyscallError("recvmsg", unix.ECONNRESET)
	for _, c := range []struct {
		err  error
		want EndReason
	}{
		{nil, EndClosed},
		{errShutdown, EndShutdown},
		{syscall, EndIO},
		{fmt.Errorf("reply: %w", syscall), EndIO},
		{errTruncated, EndProtocol},
		{&MessageError{MsgSetMemTable, errPayload}, EndProtocol},
		{&MessageError{MsgSetMemTable, os.NewSyscallError("mmap", unix.ENOMEM)}, EndProtocol},
		{&MemoryFault{}, EndMemory},
		{fmt.Errorf("stop: %w", &MemoryFault{Err: io.ErrUnexpectedEOF}), EndMemory},
	} {
		if got := endReason(c.err); got != c.want {
			t.Errorf("%v ends a session as %v, want %v", c.err, got, c.want)
		}
	}
}

func TestRingFaults(t *testing.T) {
	for err, want := range map[error]RingFault{
		virtqueue.ErrAvailIdx:        FaultAvailIdx,
		virtqueue.ErrIndex:           FaultIndex,
		virtqueue.ErrChainLoop:       FaultLoop,
		virtqueue.ErrChainCut:        FaultLoop,
		virtqueue.ErrOrder:           FaultOrder,
		virtqueue.ErrIndirectFeature: FaultIndirect,
		virtqueue.ErrIndirectNested:  FaultIndirect,
		virtqueue.ErrIndirectNext:    FaultIndirect,
		virtqueue.ErrIndirectLen:     FaultIndirect,
		virtqueue.ErrIndirectTable:   FaultIndirect,
		virtqueue.ErrSize:            FaultLayout,
		guestmem.ErrOutOfRange:       FaultLayout,
		guestmem.ErrMisaligned:       FaultLayout,
	} {
		if got := ringFault(&virtqueue.RingError{Err: err}); got != want {
			t.Errorf("%v is a fault of %v, want %v", err, got, want)
		}
	}
}

// Whatever a rule says, it has exactly one handler and admits no more payload or
// descriptors than a message can bring.
func TestRules(t *testing.T) {
	for request, r := range rules {
		if (r.act == nil) == (r.answer == nil) {
			t.Errorf("%v needs exactly one handler", request)
		}
		if r.size > MaxPayload || r.fds > MaxFds {
			t.Errorf("%v can never be sent", request)
		}
		if strings.HasPrefix(request.String(), "request ") {
			t.Errorf("request %d has no name", uint32(request))
		}
		if r.needs&^knownProtocol != 0 {
			t.Errorf("%v needs %v, which is not offered", request, r.needs)
		}
	}
	if len(rules) != len(requestNames) {
		t.Errorf("%d rules, %d names", len(rules), len(requestNames))
	}
	if knownProtocol != 0x8e22b {
		t.Errorf("known: %v", knownProtocol)
	}
}

func TestEarlier(t *testing.T) {
	for _, c := range []struct {
		at    time.Duration
		ok    bool
		other time.Duration
		want  time.Duration
	}{{5, true, 3, 3}, {3, true, 5, 3}, {3, false, 5, 5}, {4, true, 4, 4}} {
		if got, ok := earlier(c.at, c.ok, c.other); got != c.want || !ok {
			t.Errorf("earlier(%v, %v, %v) = %v, %v", c.at, c.ok, c.other, got, ok)
		}
	}
}

func TestMessageErrorUnwraps(t *testing.T) {
	err := error(&MessageError{MsgAddMemReg, guestmem.ErrRegionOverlap})
	if !errors.Is(err, guestmem.ErrRegionOverlap) || !strings.HasPrefix(err.Error(), "ADD_MEM_REG: ") {
		t.Error(err)
	}
}
