"""ATNA messages: the schema of PS3.15 A.5.1, RELAX NG written from its tables."""

from __future__ import annotations

from lxml import etree

from dicom_bridge import atna
from dicom_bridge.atna import AuditMessage, AuditObject, Participant, octet_counted, syslog_line

CODED = """
  <define name="{name}"><element name="{element}">
    <attribute name="csd-code"><data type="token"/></attribute>
    <attribute name="codeSystemName"><data type="token"/></attribute>
    <optional><attribute name="displayName"><data type="token"/></attribute></optional>
    <attribute name="originalText"><data type="token"/></attribute>
  </element></define>"""

GRAMMAR = (
    """<grammar xmlns="http://relaxng.org/ns/structure/1.0"
  datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
  <start><element name="AuditMessage">
    <element name="EventIdentification">
      <optional><attribute name="EventActionCode">
        <choice><value>C</value><value>R</value><value>U</value><value>D</value><value>E</value>
        </choice></attribute></optional>
      <attribute name="EventDateTime"><data type="dateTime"/></attribute>
      <attribute name="EventOutcomeIndicator">
        <choice><value>0</value><value>4</value><value>8</value><value>12</value></choice>
      </attribute>
      <ref name="EventID"/><zeroOrMore><ref name="EventTypeCode"/></zeroOrMore>
      <optional><element name="EventOutcomeDescription"><text/></element></optional>
    </element>
    <oneOrMore><element name="ActiveParticipant">
      <attribute name="UserID"/>
      <optional><attribute name="AlternativeUserID"/></optional>
      <optional><attribute name="UserName"/></optional>
      <attribute name="UserIsRequestor"><data type="boolean"/></attribute>
      <optional><attribute name="NetworkAccessPointID"/></optional>
      <optional><attribute name="NetworkAccessPointTypeCode">
        <choice><value>1</value><value>2</value><value>3</value><value>4</value><value>5</value>
        </choice></attribute></optional>
      <zeroOrMore><ref name="RoleIDCode"/></zeroOrMore>
    </element></oneOrMore>
    <element name="AuditSourceIdentification">
      <optional><attribute name="AuditEnterpriseSiteID"/></optional>
      <attribute name="AuditSourceID"/>
      <zeroOrMore><element name="AuditSourceTypeCode">
        <attribute name="csd-code"><data type="token"/></attribute>
      </element></zeroOrMore>
    </element>
    <zeroOrMore><element name="ParticipantObjectIdentification">
      <attribute name="ParticipantObjectID"/>
      <optional><attribute name="ParticipantObjectTypeCode">
        <choice><value>1</value><value>2</value><value>3</value><value>4</value></choice>
      </attribute></optional>
      <optional><attribute name="ParticipantObjectTypeCodeRole">
        <data type="integer"><param name="minInclusive">1</param>
          <param name="maxInclusive">26</param></data></attribute></optional>
      <optional><attribute name="ParticipantObjectDataLifeCycle">
        <data type="integer"><param name="minInclusive">1</param>
          <param name="maxInclusive">15</param></data></attribute></optional>
      <ref name="ParticipantObjectIDTypeCode"/>
      <choice><element name="ParticipantObjectName"><text/></element>
        <element name="ParticipantObjectQuery"><data type="base64Binary"/></element></choice>
      <zeroOrMore><element name="ParticipantObjectDetail">
        <attribute name="type"/><attribute name="value"><data type="base64Binary"/></attribute>
      </element></zeroOrMore>
    </element></zeroOrMore>
  </element></start>"""
    + "".join(
        CODED.format(name=name, element=name)
        for name in ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode")
    )
    + "</grammar>"
)


def assert_valid(xml: str) -> None:
    """Whether a message follows the schema."""
    grammar = etree.RelaxNG(etree.fromstring(GRAMMAR))
    document = etree.fromstring(xml)
    assert grammar.validate(document), grammar.error_log


MESSAGE = AuditMessage(
    event=atna.INSTANCES_TRANSFERRED,
    action="R",
    at="2026-11-21T12:00:00Z",
    outcome=0,
    source="CLINODE",
    site="hospital-a",
    participants=(
        Participant("root", True),
        Participant("CLINODE", False, atna.SOURCE_ROLE, "10.0.0.7", "2"),
    ),
    kind=atna.NODE_AUTHENTICATION,
    objects=(AuditObject("st12", atna.STUDY_KEY, details=(("reason", "a <b> & \u00fc"),)),),
    words="a <b> & \u00fc",
)


def test_message_follows_the_schema() -> None:
    assert_valid(atna.to_xml(MESSAGE))


def test_the_check_can_fail() -> None:
    broken = atna.to_xml(MESSAGE).replace('EventActionCode="R"', 'EventActionCode="X"')
    grammar = etree.RelaxNG(etree.fromstring(GRAMMAR))
    assert not grammar.validate(etree.fromstring(broken))


def test_line_and_frame() -> None:
    line = syslog_line(MESSAGE, host="node-a", number=7)
    head, _, xml = line.partition("\ufeff")
    assert head == "<85>1 2026-11-21T12:00:00Z node-a clinode 7 DICOM+RFC3881 - "
    assert "\n" not in line
    assert etree.fromstring(xml).find("EventIdentification/EventOutcomeDescription").text == (
        "a <b> & \u00fc"
    )
    length, _, rest = octet_counted(line).partition(b" ")
    assert int(length) == len(rest) == len(line.encode())
