package vhostuser

import (
	"errors"
	"os"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// MaxQueues is how many rings a device may have.
const MaxQueues = 8

// Stats counts what frontends do. The server writes it, any goroutine may read.
type Stats struct {
	Accepted          stats.Counter // connections
	AcceptErrors      stats.Counter // accepts that failed for want of descriptors or memory
	CandidatesEvicted stats.Counter // silent, so they had to make room
	CandidatesRefused stats.Counter // came when all places were taken
	CandidatesGone    stats.Counter // left, or broke the protocol, before their turn
	Candidates        stats.Gauge   // waiting now

	SessionsStarted stats.Counter
	SessionsEnded   [endReasons]stats.Counter // by EndReason
	Attached        stats.Gauge               // 1 during a session

	Messages  stats.Counter // handled, in sessions
	Malformed stats.Counter // of these, refused
	Resets    stats.Counter // of the device, because the driver lost its state

	BackendRequests stats.Counter // messages to frontends that they did not ask for
	MemoryStalls    stats.Counter // the kernel had no memory for what a frontend was to be told
	LogPagesLost    stats.Counter // pages written that the frontend's dirty log has no bit for

	StatesSaved  stats.Counter // whole transfers of the device's state to a frontend
	StatesLoaded stats.Counter // from one
	StateErrors  stats.Counter // transfers that failed

	Queues [MaxQueues]QueueStats // by ring index
}

// QueueStats counts one ring over all sessions.
type QueueStats struct {
	virtqueue.Stats
	Kicks  stats.Counter
	Starts stats.Counter
	Errors [ringFaults]stats.Counter // by RingFault
}

// EndReason says why a session ended.
type EndReason uint8

const (
	EndClosed   EndReason = iota // the frontend closed the connection between two messages
	EndProtocol                  // a message that cannot be answered otherwise
	EndIO                        // the connection failed
	EndMemory                    // the guest's memory was taken away while it was in use
	EndShutdown                  // the server was closed
	endReasons
)

// EndReasons names every EndReason, in order.
var EndReasons = [endReasons]string{"closed", "protocol", "io", "memory", "shutdown"}

func (r EndReason) String() string { return EndReasons[r] }

// errShutdown ends the session that lives when the server is closed.
var errShutdown = errors.New("server is closed")

// endReason classifies the error that ended a session.
func endReason(err error) EndReason {
	var (
		refused *MessageError
		fault   *MemoryFault
		syscall *os.SyscallError
	)
	switch {
	case err == nil:
		return EndClosed
	case errors.As(err, &refused): // whatever it wraps
		return EndProtocol
	case errors.Is(err, errShutdown):
		return EndShutdown
	case errors.As(err, &fault):
		return EndMemory
	case errors.As(err, &syscall):
		return EndIO
	}
	return EndProtocol
}

// RingFault says what is wrong with a ring.
type RingFault uint8

const (
	FaultLayout   RingFault = iota // its parts are misaligned or not whole in memory
	FaultAvailIdx                  // the available index jumped
	FaultIndex                     // a descriptor index out of range
	FaultLoop                      // a chain longer than its table allows
	FaultOrder                     // a readable descriptor behind a writable one
	FaultIndirect                  // a malformed indirect descriptor or table
	ringFaults
)

// RingFaults names every RingFault, in order.
var RingFaults = [ringFaults]string{"layout", "avail_index", "descriptor_index", "loop", "order", "indirect"}

func (f RingFault) String() string { return RingFaults[f] }

// ringFault classifies an error of package virtqueue.
func ringFault(err error) RingFault {
	for _, class := range [...]struct {
		sentinel error
		fault    RingFault
	}{
		{virtqueue.ErrAvailIdx, FaultAvailIdx},
		{virtqueue.ErrIndex, FaultIndex},
		{virtqueue.ErrChainLoop, FaultLoop},
		{virtqueue.ErrChainCut, FaultLoop},
		{virtqueue.ErrOrder, FaultOrder},
		{virtqueue.ErrIndirectFeature, FaultIndirect},
		{virtqueue.ErrIndirectNested, FaultIndirect},
		{virtqueue.ErrIndirectNext, FaultIndirect},
		{virtqueue.ErrIndirectLen, FaultIndirect},
		{virtqueue.ErrIndirectTable, FaultIndirect},
	} {
		if errors.Is(err, class.sentinel) {
			return class.fault
		}
	}
	return FaultLayout
}
