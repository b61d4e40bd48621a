package daemon

import (
	"fmt"
	"strings"
)

// statusComplaints is how many VMs a status names: a service manager reads 4 KiB.
const statusComplaints = 8

// status says in a line how many of the VMs are served, and what is wrong with others.
func status(vms []*vm) string {
	wrong := complaints(vms, (*vm).stuck)
	text := fmt.Sprintf("serving %d VMs", len(vms))
	switch {
	case len(wrong) > 0:
		text = fmt.Sprintf("serving %d of %d VMs", len(vms)-len(wrong), len(vms))
	case len(vms) == 1:
		text = "serving 1 VM"
	}
	if more := len(wrong) - statusComplaints; more > 0 {
		wrong = append(wrong[:statusComplaints], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(append([]string{text}, wrong...), "; ")
}
