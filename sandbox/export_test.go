package sandbox

var (
	Calls        = calls
	MachineCalls = machineCalls
	Conditions   = conditions
	Policies     = policies
)
