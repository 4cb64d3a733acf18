package bus

// Subjects of calls. What may stand for service and method is checked by
// rpc.ValidateService and rpc.ValidateMethod.
const (
	// CallPrefix begins the subject of every call.
	CallPrefix = "rpc."
	// CallQueue is the queue group in which a service's instances share calls.
	CallQueue = "rpc"

	cancelPrefix = "$RPC.cancel."
)

// CallSubject returns the subject of a call: rpc.<service>.<method>.
func CallSubject(service, method string) string { return CallPrefix + service + "." + method }

// ServiceSubject returns the wildcard that covers all calls of a service.
func ServiceSubject(service string) string { return CallPrefix + service + ".>" }

// CancelSubject returns the subject on which calls of a service are cancelled:
// the payload is the reply subject of the call, and every instance listens.
func CancelSubject(service string) string { return cancelPrefix + service }
