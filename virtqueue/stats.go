package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/stats"

// Stats counts what a queue does. An owner that counts over several starts of a
// ring gives each of its queues the same Stats.
type Stats struct {
	Chains     stats.Counter // chains published in the used ring
	BadChains  stats.Counter // chains popped with Err set
	Broken     stats.Counter // times the ring broke
	Notified   stats.Counter // batches the driver was interrupted for
	Suppressed stats.Counter // batches it did not want to hear about
}
