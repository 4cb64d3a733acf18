package pipeline_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/pipeline"
)

// The names, and which calls may be sent again, are the contract's.
func TestContract(t *testing.T) {
	t.Parallel()
	want := map[string]bool{ // idempotent
		"event.send": true, "event.cancel": true, "event.history": true, "event.get": true, "event.handlers": true,
		"event.dead.list": true, "event.dead.get": true, "event.dead.retry": false, "event.dead.discard": false,
		"schedule.create": true, "schedule.list": true, "schedule.get": true, "schedule.pause": true, "schedule.resume": true,
		"schedule.trigger": false, "schedule.backfill": false, "schedule.delete": false, "schedule.history": true, "schedule.next": true,
	}
	specs := []*rpc.Spec{
		pipeline.EventSend.Spec(), pipeline.EventCancel.Spec(), pipeline.EventHistory.Spec(), pipeline.EventGet.Spec(), pipeline.EventHandlers.Spec(),
		pipeline.EventDeadList.Spec(), pipeline.EventDeadGet.Spec(), pipeline.EventDeadRetry.Spec(), pipeline.EventDeadDiscard.Spec(),
		pipeline.ScheduleCreate.Spec(), pipeline.ScheduleList.Spec(), pipeline.ScheduleGet.Spec(), pipeline.SchedulePause.Spec(), pipeline.ScheduleResume.Spec(),
		pipeline.ScheduleTrigger.Spec(), pipeline.ScheduleBackfill.Spec(), pipeline.ScheduleDelete.Spec(), pipeline.ScheduleHistory.Spec(), pipeline.ScheduleNext.Spec(),
	}
	for _, s := range specs {
		idempotent, known := want[s.Method]
		if s.Service != pipeline.ServiceName || !known || s.Idempotent != idempotent || s.Description == "" {
			t.Errorf("%+v", s)
		}
		delete(want, s.Method)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

// What is not said is not on the wire.
func TestContractJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		value any
		want  string
	}{
		{pipeline.EventSendParams{EventType: "user.created"}, `{"eventType":"user.created"}`},
		{
			pipeline.EventSendParams{EventType: "a.b", Payload: json.RawMessage(`{"n":1}`), ID: "i", Subject: "s", At: at, CorrelationID: "c"},
			`{"eventType":"a.b","payload":{"n":1},"id":"i","subject":"s","at":"2030-01-02T03:04:05Z","correlationId":"c"}`,
		},
		{pipeline.EventSendResult{EventID: "i", Subject: "$.a.b", Sequence: 7}, `{"eventId":"i","subject":"$.a.b","sequence":7}`},
		{pipeline.EventDeadRetryParams{EventDeadDiscardParams: pipeline.EventDeadDiscardParams{ID: 7}}, `{"id":7}`},
		{
			pipeline.ScheduleCreateParams{ScheduleSpec: pipeline.ScheduleSpec{Cron: "0 0 * * *", Handler: "daily-report", RunTimeout: pipeline.Duration(90 * time.Minute)}, Replace: true},
			`{"handler":"daily-report","cron":"0 0 * * *","runTimeout":"1h30m0s","replace":true}`,
		},
		{pipeline.ScheduleCreateResult{Name: "a", Next: at}, `{"name":"a","next":"2030-01-02T03:04:05Z"}`},
	} {
		text, err := json.Marshal(test.value)
		if err != nil || string(text) != test.want {
			t.Errorf("%s, %v, want %s", text, err, test.want)
		}
		back := reflect.New(reflect.TypeOf(test.value))
		if err := json.Unmarshal(text, back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), test.value) {
			t.Errorf("%s is read as %+v, %v", text, back.Elem(), err)
		}
	}
}

func TestDurationText(t *testing.T) {
	t.Parallel()
	var d pipeline.Duration
	if err := json.Unmarshal([]byte(`"1h30m"`), &d); err != nil || time.Duration(d) != 90*time.Minute {
		t.Errorf("%v, %v", time.Duration(d), err)
	}
	if err := json.Unmarshal([]byte(`"soon"`), &d); rpc.CodeOf(err) != rpc.InvalidArgument || !strings.Contains(err.Error(), "1h30m") {
		t.Errorf("%v", err)
	}
}

// Params are checked without a service, and the error says which field.
func TestContractValidate(t *testing.T) {
	t.Parallel()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	type validator interface{ Validate() error }
	for _, test := range []struct {
		params validator
		field  string // empty for none
	}{
		{pipeline.EventSendParams{EventType: "$.User.registered"}, "eventType"},
		{pipeline.EventCancelParams{EventID: " x"}, "eventId"},
		{pipeline.EventHistoryParams{Patterns: []string{""}}, "patterns"},
		{pipeline.EventHistoryParams{Cursor: "x"}, "cursor"},
		{pipeline.EventHistoryParams{Since: at, Until: at}, "until"},
		{pipeline.EventHistoryParams{Limit: 1001}, "limit"},
		{pipeline.EventGetParams{}, "sequence"},
		{pipeline.EventHandlersParams{Handler: "x"}, "service"},
		{pipeline.EventHandlersParams{Service: "_x"}, "service"},
		{pipeline.EventDeadListParams{Limit: -1}, "limit"},
		{pipeline.EventDeadGetParams{}, "id"},
		{pipeline.ScheduleSpec{Cron: "@daily"}, "handler"},
		{pipeline.ScheduleSpec{Cron: "@daily", Event: "a.b"}, "name"},
		{pipeline.ScheduleSpec{Cron: "@daily", Name: "x", Event: "a"}, "event"},
		{pipeline.ScheduleSpec{Cron: "@daily", Name: "x", Start: at, End: at}, "end"},
		{pipeline.ScheduleName{}, "name"},
		{pipeline.ScheduleListParams{After: "a.b"}, "after"},
		{pipeline.SchedulePauseParams{}, "name"},
		{pipeline.ScheduleTriggerParams{}, "name"},
		{pipeline.ScheduleBackfillParams{Name: "x", From: at}, "until"},
		{pipeline.ScheduleHistoryParams{Name: "x", Limit: -1}, "limit"},
		{pipeline.ScheduleNextParams{Name: strings.Repeat("x", 65)}, "name"},

		{pipeline.EventSendParams{EventType: "user.created"}, ""},
		{pipeline.EventHistoryParams{}, ""},
		{pipeline.EventDeadListParams{Service: "mill", Handler: "grind", Limit: 1000}, ""},
		{pipeline.EventDeadRetryParams{EventDeadDiscardParams: pipeline.EventDeadDiscardParams{All: true}, Data: json.RawMessage("null")}, ""},
		{pipeline.ScheduleCreateParams{ScheduleSpec: pipeline.ScheduleSpec{Cron: "0 0 * * *", Handler: "daily-report"}}, ""},
		{pipeline.ScheduleSpec{Name: "once", Event: "a.b", At: at}, ""},
		{pipeline.ScheduleListParams{}, ""},
	} {
		err := test.params.Validate()
		if test.field == "" {
			if err != nil {
				t.Errorf("%T%+v: %v", test.params, test.params, err)
			}
			continue
		}
		violation, ok := rpc.DetailOf[rpc.FieldViolation](err)
		if rpc.CodeOf(err) != rpc.InvalidArgument || !ok || violation.Field != test.field || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%T%+v: %v, %+v", test.params, test.params, err, violation)
		}
	}
}
