"""English words by part of speech, as far as captions need them; open classes list only what endings do not show."""

from __future__ import annotations

from typing import Literal

Tag = Literal[
    "noun",
    "verb",
    "adjective",
    "adverb",
    "determiner",
    "preposition",
    "pronoun",
    "conjunction",
    "number",
    "other",
]


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CLASSES: dict[Tag, str] = {
    "determiner": """
        a an the this these those his its their my your our whose no every another each some any several many few both
        all her that either neither one's
    """,
    "number": "zero one two three four five six seven eight nine ten eleven twelve hundred",
    "pronoun": """
        he she it they him them i you we us me who whom which what there himself herself itself themselves others
        someone somebody something anyone anything everyone everybody everything nothing nobody it's he's she's
        there's theirs hers mine ones myself yourself ourselves oneself
    """,
    "conjunction": "and or but nor while whilst as when where because if though although until & plus",
    "preposition": """
        in on at of with by to from for into onto over under near behind beside besides between among amongst amid
        amidst across through thru throughout along alongside against around about above below beneath underneath
        during after before towards toward upon inside outside within without past off up down out atop like than
        upside via despite except beyond opposite
    """,
    "adverb": """
        not n't very too also together away just only still almost already again ever never here then now how why
        forward forwards backward backwards sideways outdoors indoors downhill uphill ahead apart nearby alone
        barefoot upside-down upwards downwards upward downward so else even instead aside overhead outward airborne
        mid-air downstream upstream underwater upright once twice asleep well rather quite perhaps soon somewhere
        everywhere headfirst aloft onstage ashore aboard abreast
    """,
    "verb": """
        is are was were be been being am has have had does did done can could will would may might must should ran sat
        stood wore held took threw went came rode saw got made gave fell flew ate drank drove dove swam isn't aren't
        doesn't don't can't let
    """,
}
CLOSED = {word: tag for tag, words in _CLASSES.items() for word in words.split()}
BEFORE_INFINITIVE = _listed("to can could will would may might must should does did don't can't doesn't let")
MAY_STAND_ALONE = _listed("one some several many few both all each another other that her any either neither")
RELATIVE = _listed("who that which")
CLAUSE_ENDS = _listed(". ; and or but nor while whilst as when where because if")
FIXED = frozenset([("in", "front", "of"), ("on", "top", "of"), ("in", "back", "of")])

COLOURS = _listed(
    """
    red orange yellow green blue purple pink brown black white grey gray tan beige maroon teal turquoise navy gold
    silver violet burgundy khaki aqua
    """
)
ADJECTIVES = COLOURS | _listed(
    """
    big small large little tiny huge giant tall short long old young new older younger elderly wet dry hot cold warm
    cool dark bright deep shallow high low wide narrow thick thin fat heavy soft hard calm fast full empty open clear
    clean dirty dusty muddy sandy rocky snowy icy grassy leafy hilly foggy cloudy sunny rainy windy shady rusty shiny
    fluffy furry hairy curly fuzzy scruffy shaggy funny happy silly goofy busy fancy pretty cute beautiful nice good
    great fake odd strange blond blonde brunette bald male female asian african american african-american indian
    chinese japanese european oriental french british german same other different various multiple numerous more first
    second third next single double half main upper lower left right nude naked bare lone dead broken frozen fallen
    worn torn seated wooden golden steep sharp rough smooth flat straight tight plain fresh ripe urban rural public
    modern ancient casual formal professional tropical outdoor indoor distant nearby far close free ready upset excited
    tired sole mid early late similar opposing wild smaller larger bigger fellow own matching floral stuffed hooded
    chubby skinny dim murky barren lush vast massive teenage barefooted topless playful choppy bumpy bouncy floppy
    """
)
VERBS = _listed(  # more often a verb than a noun, in the base form or with -s
    """
    adjust admire aim appear applaud approach argue ascend ask assist attack attempt bark bathe beat beg begin bend
    bite blow bounce bring build bump burn burst buy call carry cast catch celebrate chase chat cheer chew chop clap
    climb cling clutch collect come compete concentrate contain converse cook crash crawl create cross crouch cry
    cuddle cut dance dangle deliver descend dig dip discuss display do dodge drag draw dribble drink drive drop eat
    embrace emerge enjoy enter escape examine exercise explore extend feed fetch fight fill fling flip float fly fold
    follow form frolic gallop gather gaze gesture get give glide gnaw go grab greet grin grip guide hang haul help herd
    hide hike hit hoist hold hop hover howl hug hunt hurry include inspect interact jog join juggle jump keep kick kiss
    kneel land laugh lay lead lean leap learn leave lick lie lift listen look lounge love lunge make march meet move
    navigate obscure observe offer operate overlook own participate pass pat pause pedal peek peer perform pet play
    pluck poke pose pounce pour prance prepare press pretend prevent protect pull push put raise rappel reach read
    receive relax remain remove repair rescue rest retrieve return ride rip rise roll rub run rush say scoop scramble
    scratch see seem sell serve shake share shoot shout show sing sip sit slam sleep slice slip smile snap sniff soak
    soar sort speak spill spin splash spread sprinkle sprint squat squeeze squirt stand stare start stay steal steer
    stir stop stretch strike stroll support surf surround swallow sweep swim swoop tackle take talk teach tease tell
    throw tip toss touch travel traverse trek trim trot try tuck tug tumble turn twirl twist use wade wait wake walk
    wander watch wear weave whisper wield wink wipe wrestle write yawn yell zoom
    """
)
RARER_VERBS = _listed(  # more often a noun
    """
    back balance battle bicycle bike block board bow bowl box brush camp canoe change check circle clean cover crowd
    cruise cycle dive draw dress drill dunk dust exit face fall fan fence finish fish fix grill group guard hand head
    hook hose hurdle kayak knit light line load lock mark need nose open pack paddle paint park paw perch photograph
    picnic pile pitch plant point practice protest punch race raft rock rope row sail scale set shop signal skate
    skateboard ski skip sled slide smell smoke snowboard spray stack step stick swing tag tap tend tie tow train treat
    trick trip vault view visit wash water wave wheel work wrap
    """
)
PARTICIPLES = _listed(
    """
    seen thrown ridden caught worn torn built blown drawn driven shown taken given known held lit bent cut bound spread
    hidden made kept left grown woven sewn
    """
)
NOUNS = _listed(  # by their endings they would be verbs, adjectives or adverbs
    """
    thing string ring wing king spring building clothing evening morning ceiling railing wedding clearing outcropping
    lighting sling earring siding bedding awning parking sibling lightning pudding flooring scaffolding icing bed sled
    shed seed weed speed breed moped reed feed steed bobsled fish starfish dish drive olive music picnic traffic fabric
    mechanic musician technician brush handful table vegetable cable gear family belly jelly butterfly assembly italy
    bully dolly trolley
    """
)
PLURALS = _listed("people men women children kids police cattle sheep geese fish feet teeth")
SINGULARS = _listed("bus gas tennis canvas christmas mattress lens")
