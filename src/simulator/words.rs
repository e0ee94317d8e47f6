//! Invented names and words for seeded data.

pub(crate) const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bela", "Cora", "Dario", "Edda", "Falk", "Greta", "Hugo", "Ines", "Jonas", "Kira",
    "Lars", "Mona", "Nils", "Orla", "Pavel",
];
pub(crate) const LAST_NAMES: [&str; 16] = [
    "Amsel", "Birkholt", "Corbin", "Dorn", "Eichler", "Farrow", "Grau", "Holm", "Iversen",
    "Jarvis", "Kestrel", "Lund", "Marlow", "Norden", "Oster", "Quist",
];
pub(crate) const TRADES: [&str; 8] = [
    "Mills",
    "Foundry",
    "Logistics",
    "Software",
    "Gardens",
    "Optics",
    "Bakery",
    "Shipyard",
];
pub(crate) const CITIES: [&str; 8] = [
    "Berlin", "Bergen", "Lyon", "Porto", "Graz", "Leeds", "Gent", "Turku",
];
pub(crate) const JOBS: [&str; 6] = [
    "Buyer",
    "Head of Sales",
    "Engineer",
    "Founder",
    "Controller",
    "Planner",
];
pub(crate) const DEAL_STAGES: [&str; 7] = [
    "appointmentscheduled",
    "qualifiedtobuy",
    "presentationscheduled",
    "decisionmakerboughtin",
    "contractsent",
    "closedwon",
    "closedlost",
];
pub(crate) const COMPLAINTS: [&str; 5] = [
    "Invoice missing",
    "Login fails",
    "Late delivery",
    "Wrong size",
    "Export is empty",
];
pub(crate) const GOODS: [&str; 6] = ["Lamp", "Desk", "Bicycle", "Kettle", "Lens", "Gearbox"];
