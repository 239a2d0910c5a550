"""English words by part of speech, as far as captions need them; open classes list only what endings do not show.

The lists from `DYES` on say which words of a caption may change places, and what is then still true.
"""

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

DYES = (COLOURS - {"orange"}) | _listed(
    "orange crimson emerald azure golden blond blonde striped plaid checkered camouflage colorful"
)
SHADES = _listed("light dark bright pale deep neon hot lime")
OPPOSED = {  # attributes by what they say
    **dict.fromkeys(_listed("big large huge giant larger bigger"), "large"),
    **dict.fromkeys(_listed("small little tiny smaller"), "small"),
    **dict.fromkeys(_listed("young younger"), "young"),
    **dict.fromkeys(_listed("old older elderly"), "old"),
    **dict.fromkeys(_listed("tall long"), "tall"),
    "short": "short",
}
STATES = _listed(  # attributes with which a colour may change places
    """
    wet muddy snowy sandy grassy rocky dirty dusty icy dry wooden metal brick stone empty crowded busy fluffy furry
    hairy shaggy curly fat thin narrow deep shallow steep flat rusty shiny plastic leather concrete stuffed paved
    small large big little tiny huge tall short long hot happy old young cloudy sunny clear thick heavy rough calm soft
    hard wooded inflatable indoor outdoor rural tropical leafy hilly lush bright
    """
)
PEOPLE = _listed(
    """
    man woman boy girl person child kid baby toddler guy lady adult teenager player rider biker skateboarder snowboarder
    skier surfer climber hiker cyclist bicyclist motorcyclist runner swimmer dancer performer singer musician worker
    athlete cheerleader clown couple family crowd fan spectator officer policeman fireman soldier photographer
    gentleman mother father son daughter brother sister friend male female youth student teen men women people children
    kids boys girls persons players guys ladies adults teenagers babies toddlers friends spectators fans skater acrobat
    wrestler referee coach bride groom goalie racer jockey onlooker audience cowboy individual passenger pedestrian
    rollerblader kayaker catcher vendor artist infant pitcher teammate parent backpacker fisherman diver firefighter
    mountaineer guitarist gymnast cameraman drummer youngster defender jogger waiter ballerina opponent pirate onlookers
    group bunch
    """
)
GROUPS = _listed("group bunch couple")
WOMEN = _listed("woman women girl girls lady ladies female females mother daughter sister bride")
SAME = (  # names or colours that one thing may have
    *map(_listed, ("circle disc", "square box", "cross sign", "red crimson", "green emerald", "blue azure navy teal")),
    *map(_listed, ("yellow gold golden blond blonde", "purple violet", "gray grey silver", "tan beige khaki brown")),
    *map(_listed, ("black dark", "striped plaid checkered")),
    _listed("child kid baby toddler teenager youth teen boy son"),
    _listed("child kid baby toddler teenager youth teen girl daughter"),
    _listed("man guy gentleman male father adult"),
    _listed("woman lady female mother adult"),
)
MEN = _listed("man men boy boys guy guys gentleman male males father son brother")
GENDERED = _listed("his her he she him himself herself")
ANIMALS = _listed(
    """
    dog puppy cat kitten horse cow bull bird duck goose sheep goat deer monkey elephant camel lion tiger bear rabbit
    squirrel dogs puppies cats horses cows birds ducks geese goats animal animals greyhound greyhounds poodle terrier
    collie dalmatian retriever shepherd labrador lab bulldog boxer pony donkey pigeon seagull seagulls pigeons
    swan doberman beagle chicken dachshund pelican lamb snake dolphin spaniel turkey
    """
)
CLOTHES = _listed(
    """
    shirt t-shirt tshirt jacket hat shorts dress coat pants suit jeans cap sweater vest skirt scarf outfit clothes
    clothing costume uniform jersey helmet sunglasses glasses goggles shoes boots gloves socks tie bikini trunks wetsuit
    sweatshirt hoodie shirts hats jackets dresses swimsuit collar harness backpack bandanna bandana headband tights
    overalls robe apron mask trousers wig beard headphones necklace cape tutu leotard tuxedo gown crown sandals sneakers
    """
)
PLACES = _listed(
    """
    water grass snow field beach street pool park mountain dirt hill sand ocean road area sidewalk ground lake city
    ramp path track river yard ice cliff woods mountains forest playground shore trail sky course floor room steps lawn
    mud stairs slope court pond stream desert surface garden backyard restaurant racetrack sea house building store
    tunnel pavement bank puddle wave waves waterfall wall station stage gym stadium arena lot intersection market hills
    fields hillside rocks trees buildings leaves surf rapids shoreline lot driveway walkway meadow pasture
    dune terrain mountainside mountaintop shop subway pier valley courtyard alley shoreline kitchen railway canyon creek
    """
)
NAMELESS = _listed(  # nouns that stand for no thing of their own, or for a part of another
    """
    air background foreground distance top bottom side sides middle front back left right way picture photo camera day
    night midair mid-air edge end corner mouth hand hands arm arms face head leg legs foot feet tongue eye eyes nose ear
    ears teeth body neck shoulder shoulders lap knee knees finger fingers hair tail paw paws chest belly stomach object
    objects shape thing things something others other view trick tricks stunt stunts jump jumps flip flips game race
    ride walk run swim turn break time lot number pair set row line pile piece kind type place fun look pose
    help part half variety action play ones sunset sunrise dusk dawn sun left-hand right-hand turns games sports spots
    weather winter summer style attire gear maneuver
    """
)
UNCOUNTED = _listed(  # nouns without an indefinite article
    """
    water grass snow sand mud dirt ice food hair clothing equipment graffiti smoke fire wood metal plastic paper
    concrete soccer football tennis basketball baseball hockey music traffic foliage gravel pavement surf
    """
)
COMPOUNDS = _listed(  # participles after a noun, as in snow-covered hill, also without the hyphen
    "covered paved lined filled sized colored coloured haired shaped topped faced"
)
SINGULAR_OF = {"men": "man", "women": "woman", "children": "child", "people": "person", "puppies": "puppy"}
AN_BEFORE = _listed("hour honest")
A_BEFORE = ("uni", "use", "euro", "one", "ukulele", "utensil")
SLOPES = _listed(  # where up is not down, as it is on a street
    """
    hill hills stairs stair stairway staircase steps slope slopes mountain mountains mountainside hillside ladder ramp
    cliff tree dune dunes bank embankment escalator incline
    """
)
SURFACES = _listed(  # what one may be under as well as on
    """
    bench table bridge bed chair couch car truck roof rock rocks platform stage trampoline ledge log boat dock deck
    pier railing porch sofa blanket horse
    """
)
SYMMETRIC = (  # beginnings of verbs whose subject and object may change places
    *("meet", "met", "kiss", "hug", "embrac", "fac", "fight", "fought", "play", "talk", "chat", "convers", "wrestl"),
    *("danc", "shak", "argu", "rac", "compet", "join", "greet", "touch", "collid", "bump", "crash", "cuddl", "snuggl"),
    *("mate", "match", "resembl", "marr", "link", "hang", "hung"),
)
OWN = _listed("his her its their whose my our your")
PLAIN = _listed(  # of A and B these say much the same as of B and A
    "of with and near next beside by against along alongside across between among amongst opposite , & or"
)

# Phrases and their opposites; those of the first list are false of B and A where they are true of A and B.
_CONTRARY = """
    above|below over|under in_front_of|behind in_back_of>in_front_of left_of|right_of to_the_left_of|to_the_right_of
    on_the_left_of|on_the_right_of on_the_left-hand_side_of|on_the_right-hand_side_of higher_than|lower_than
    higher_up_than|lower_down_than left_than|right_than up_than|down_than beneath>above underneath>on_top_of
    on_top_of>underneath atop>underneath
"""
_OTHERWISE = """
    left_from|right_from up_from|down_from on_its_left|on_its_right to_its_left|to_its_right
    on_its_left-hand_side|on_its_right-hand_side on_the_left|on_the_right
    into|out_of onto|off off_of>onto inside|outside inside_of|outside_of outdoors|indoors
    toward>away_from towards>away_from away_from>toward up|down at_the_top_of|at_the_bottom_of
    in_the_foreground|in_the_background near>far_from next_to>far_from beside>far_from on>under with|without
"""


def _pairs(text: str) -> dict[tuple[str, ...], str]:
    pairs = {}
    for pair in text.split():
        one, other = pair.replace(">", "|").split("|")
        pairs[tuple(one.split("_"))] = other.replace("_", " ")
        if "|" in pair:
            pairs[tuple(other.split("_"))] = one.replace("_", " ")
    return pairs


CONTRARY = _pairs(_CONTRARY)
OPPOSITE = CONTRARY | _pairs(_OTHERWISE)
