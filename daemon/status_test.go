package daemon

import (
	"fmt"
	"strings"
	"testing"
)

func TestStatus(t *testing.T) {
	up := func(name string) *vm {
		v := &vm{name: name}
		v.stats.up.Set(1)
		return v
	}
	stuck := up("stuck")
	stuck.stats.stuck.Set(1)
	failed := &vm{name: "failed"}
	for _, tt := range []struct {
		vms  []*vm
		want string
	}{
		{nil, "serving 0 VMs"},
		{[]*vm{up("a")}, "serving 1 VM"},
		{[]*vm{up("a"), up("b")}, "serving 2 VMs"},
		{[]*vm{up("a"), stuck, failed}, "serving 1 of 3 VMs; VM stuck: its event loop does not answer; VM failed: it has failed"},
		{[]*vm{failed}, "serving 0 of 1 VMs; VM failed: it has failed"},
	} {
		if got := status(tt.vms); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// A service manager reads at most 4 KiB.
func TestStatusOfManyIsShort(t *testing.T) {
	var failed []*vm
	for i := range 500 {
		failed = append(failed, &vm{name: fmt.Sprintf("%064d", i)})
	}
	if got := status(failed); len(got) > 2048 || !strings.HasSuffix(got, "; and 492 more") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
